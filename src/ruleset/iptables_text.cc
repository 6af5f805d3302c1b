// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/iptables_text.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "ruleset/nft_text.h"

namespace utproxy {
namespace {

// One condition as iptables sees it: any of these words, or none of them.
struct Alternatives {
  std::vector<std::string> words;
  bool negated = false;
};

Alternatives FromInterfaces(const FromInterface& c) {
  Alternatives result{{}, c.negated};
  for (const std::string& name : c.names) result.words.push_back(absl::StrCat("-i ", name));
  return result;
}

Alternatives Addresses(const HasAddress& c) {
  const bool source = c.side == Side::kSource;
  Alternatives result{{}, c.negated};
  for (const AddressRange& range : c.ranges) {
    const std::string text = RangeToString(range, c.family);
    if (text.find('-') == std::string::npos) {
      result.words.push_back(absl::StrCat(source ? "-s " : "-d ", text));
    } else {
      result.words.push_back(
          absl::StrCat("-m iprange ", source ? "--src-range " : "--dst-range ", text));
    }
  }
  return result;
}

// iptables' port match wants the protocol in the same rule.
Alternatives Transport(const OfProtocol& protos, const ToPort* ports) {
  Alternatives result;
  for (const Proto proto : protos.protos) {
    const std::string word = absl::StrCat("-p ", ProtoName(proto));
    if (ports == nullptr) {
      result.words.push_back(word);
      continue;
    }
    for (const PortRange& range : ports->ports) {
      result.words.push_back(absl::StrCat(word, " --dport ", range.first, ":", range.last));
    }
  }
  return result;
}

// The conditions of a queueing rule; false where it is not for `family`.
bool ReadConditions(const Rule& rule, Family family, std::vector<Alternatives>& out) {
  const ToPort* ports = nullptr;
  for (const Condition& c : rule.conditions) {
    if (const auto* p = std::get_if<ToPort>(&c)) ports = p;
  }
  for (const Condition& c : rule.conditions) {
    if (const auto* of_family = std::get_if<OfFamily>(&c)) {
      if (of_family->family != family) return false;
    } else if (const auto* from = std::get_if<FromInterface>(&c)) {
      out.push_back(FromInterfaces(*from));
    } else if (const auto* protos = std::get_if<OfProtocol>(&c)) {
      out.push_back(Transport(*protos, ports));
    } else if (const auto* mark = std::get_if<HasMark>(&c)) {
      out.push_back(
          {{absl::StrFormat("-m mark --mark 0x%x/0x%x", mark->mark.value, mark->mark.mask)}});
    } else if (const auto* addresses = std::get_if<HasAddress>(&c)) {
      out.push_back(Addresses(*addresses));
    }
  }
  return true;
}

std::string QueueText(const Queue& queue) {
  std::string text = "-j NFQUEUE";
  if (queue.first == queue.last) {
    absl::StrAppend(&text, " --queue-num ", queue.first);
  } else {
    absl::StrAppend(&text, " --queue-balance ", queue.first, ":", queue.last);
  }
  if (queue.bypass) absl::StrAppend(&text, " --queue-bypass");
  if (queue.cpu_fanout) absl::StrAppend(&text, " --queue-cpu-fanout");
  return text;
}

// Writes one rule as a ladder: words of one alternative gather in a rule; a list becomes one rule
// for each of its words, all leading to the next chain. NFQUEUE ends the walk, so a packet that
// fits two words is still queued once.
class Ladder {
 public:
  Ladder(Family family, std::string name)
      : tool_(family == Family::kIpv4 ? "iptables-nft" : "ip6tables-nft"), name_(std::move(name)) {}

  void Add(const Alternatives& alternatives) {
    const bool single = alternatives.words.size() == 1;
    if (single) {
      // "-m module [!] --option" takes the sign after the module, "-s" before it.
      std::string word = alternatives.words[0];
      if (alternatives.negated) {
        const size_t option = word.rfind(" --");
        word.insert(option == std::string::npos ? 0 : option + 1, "! ");
      }
      absl::StrAppend(&gathered_, " ", word);
    } else if (alternatives.negated) {
      Step();
      for (const std::string& word : alternatives.words)
        Append(absl::StrCat(" ", word), "-j RETURN");
    } else {
      const std::string next = NewChain();
      for (const std::string& word : alternatives.words) {
        Append(absl::StrCat(gathered_, " ", word), absl::StrCat("-j ", next));
      }
      Enter(next);
    }
  }

  std::string Finish(const Queue& queue, const std::string& comment) {
    Append(absl::StrCat(gathered_, " -m comment --comment '", comment, "'"), QueueText(queue));
    return text_;
  }

 private:
  std::string NewChain() {
    const std::string next = absl::StrCat(name_, "-", ++chains_);
    absl::StrAppend(&text_, tool_, " -w -t mangle -N ", next, "\n");
    return next;
  }
  void Step() {
    const std::string next = NewChain();
    Append(gathered_, absl::StrCat("-j ", next));
    Enter(next);
  }
  void Enter(const std::string& chain) {
    current_ = chain;
    gathered_.clear();
  }
  void Append(absl::string_view words, absl::string_view jump) {
    absl::StrAppend(&text_, tool_, " -w -t mangle -A ", current_, words, " ", jump, "\n");
  }

  std::string tool_, name_;
  std::string current_ = kIptablesChain;
  std::string gathered_, text_;
  int chains_ = 0;
};

}  // namespace

std::string ChainToIptables(const Chain& chain, Family family) {
  std::string rules;
  int number = 0;
  for (const Rule& rule : chain.rules) {
    std::vector<Alternatives> conditions;
    const auto* queue = std::get_if<Queue>(&rule.statement);
    if (queue == nullptr || !ReadConditions(rule, family, conditions)) continue;
    Ladder ladder(family, absl::StrCat(kIptablesChain, "-", ++number));
    for (const Alternatives& c : conditions) ladder.Add(c);
    absl::StrAppend(&rules, ladder.Finish(*queue, rule.comment));
  }
  if (rules.empty()) return "";
  const std::string tool = family == Family::kIpv4 ? "iptables-nft" : "ip6tables-nft";
  return absl::StrCat(tool, " -w -t mangle -N ", kIptablesChain, "\n", rules, tool,
                      " -w -t mangle -A PREROUTING -j ", kIptablesChain, "\n");
}

}  // namespace utproxy
