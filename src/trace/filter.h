// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_FILTER_H_
#define UTPROXY_TRACE_FILTER_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "trace/record.h"
#include "utproxy/address.h"

namespace utproxy {

// What a filter looks at. Refers to its parts; valid while they are.
struct FilterSubject {
  const TraceRecord& record;
  absl::string_view target;
  uint16_t queue = 0;
  // The name of an interface index; called only where the filter asks for one.
  const std::function<std::string(uint32_t ifindex)>& names;
};

// A condition on decisions, compiled once:
//
//   proto udp and dport 53 and verdict drop
//   (host 10.0.0.0/8 or src 2001:db8::1) and not reason listener
//
//   proto tcp|udp|NUMBER        port, sport, dport PORT[-PORT]
//   host, src, dst ADDR[/LEN]   verdict accept|drop     reason WORD     target NAME
//   queue NUMBER                mark VALUE[/MASK] (after the verdict)   iif NAME
//
// `not` binds closest, then `and`, then `or`; `!`, `&&` and `||` stand for them. Ports are those of
// packets whose headers could be read; others have none. A plain value; const members may be
// called by any thread.
class Filter {
 public:
  static constexpr size_t kMaxLength = 1024;  // in bytes
  static constexpr int kMaxDepth = 32;        // of parentheses and `not`s in each other

  // An error is one line with the column, counted from 1, and what would do there:
  // "column 7: 'tpc' is no protocol: tcp, udp, or a number 0 to 255". Text without a word is the
  // filter that everything passes.
  static absl::StatusOr<Filter> Compile(absl::string_view text);

  bool Passes(const FilterSubject& subject) const;

 private:
  friend class FilterParser;
  enum class Kind : uint8_t {
    kAnd,
    kOr,
    kNot,
    kProto,
    kHost,
    kSrc,
    kDst,
    kPort,
    kSport,
    kDport,
    kVerdict,
    kReason,
    kTarget,
    kQueue,
    kMark,
    kIif,
  };
  // Operators name their operands by index; those come before them.
  struct Node {
    Kind kind;
    uint32_t a = 0, b = 0;  // operands, numbers, a range's ends, or value and mask
    Cidr prefix;
    std::string word;
  };
  bool Passes(size_t node, const FilterSubject& subject) const;
  static bool Matches(const Node& node, const FilterSubject& subject);

  std::vector<Node> nodes_;  // the last one is the whole
};

}  // namespace utproxy

#endif  // UTPROXY_TRACE_FILTER_H_
