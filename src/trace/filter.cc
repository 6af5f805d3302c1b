// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/filter.h"

#include <algorithm>

namespace utproxy {
namespace {

bool Within(const Address& address, Family family, const Cidr& prefix) {
  return family == prefix.family && prefix.Contains(address);
}

bool InRange(uint16_t port, uint32_t first, uint32_t last) { return port >= first && port <= last; }

}  // namespace

bool Filter::Passes(const FilterSubject& subject) const {
  return nodes_.empty() || Passes(nodes_.size() - 1, subject);
}

// As deep as the text was, which Compile bounds; a chain of `and`s is as deep as it is long, which
// kMaxLength bounds.
bool Filter::Passes(size_t index, const FilterSubject& subject) const {
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Kind::kAnd:
      return Passes(node.a, subject) && Passes(node.b, subject);
    case Kind::kOr:
      return Passes(node.a, subject) || Passes(node.b, subject);
    case Kind::kNot:
      return !Passes(node.a, subject);
    default:
      return Matches(node, subject);
  }
}

bool Filter::Matches(const Node& node, const FilterSubject& subject) {
  const TraceRecord& r = subject.record;
  const Packet& p = r.packet;
  const bool ports = p.outcome == ParseOutcome::kOk;
  switch (node.kind) {
    case Kind::kProto:
      return p.protocol == node.a;
    case Kind::kHost:
      return Within(p.src, p.family, node.prefix) || Within(p.dst, p.family, node.prefix);
    case Kind::kSrc:
      return Within(p.src, p.family, node.prefix);
    case Kind::kDst:
      return Within(p.dst, p.family, node.prefix);
    case Kind::kPort:
      return ports && (InRange(p.sport, node.a, node.b) || InRange(p.dport, node.a, node.b));
    case Kind::kSport:
      return ports && InRange(p.sport, node.a, node.b);
    case Kind::kDport:
      return ports && InRange(p.dport, node.a, node.b);
    case Kind::kVerdict:
      return static_cast<uint32_t>(r.verdict) == node.a;
    case Kind::kReason:
      return static_cast<uint32_t>(r.reason) == node.a;
    case Kind::kTarget:
      return subject.target == node.word;
    case Kind::kQueue:
      return subject.queue == node.a;
    case Kind::kMark:
      return ((r.mark ^ node.a) & node.b) == 0;
    case Kind::kIif:
      return p.iif != 0 && subject.names(p.iif) == node.word;
    default:
      return false;
  }
}

}  // namespace utproxy
