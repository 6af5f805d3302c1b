// SPDX-License-Identifier: GPL-3.0-or-later
// Queues, the kernel's tables and what the kernel can do.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <linux/netfilter.h>

#include <algorithm>
#include <array>

#include "diagnose/chain_walk.h"
#include "diagnose/checks.h"
#include "diagnose/fixes.h"

namespace utproxy {
namespace {

bool DefragIsOn(const SystemView& view) {
  for (const ChainFacts& chain : view.ruleset.chains) {
    if (chain.type == "nat" && chain.hook != kNoHook) return true;
    for (const RuleFacts& rule : chain.rules) {
      if (rule.defrags) return true;
    }
  }
  return false;
}

const QueueFacts* FindQueue(const SystemView& view, uint32_t number) {
  for (const QueueFacts& queue : view.queues) {
    if (queue.number == number) return &queue;
  }
  return nullptr;
}

std::string QueuesText(const ProxyTarget& target) {
  if (target.queue_first == target.queue_last) return absl::StrCat("queue ", target.queue_first);
  return absl::StrCat("queues ", target.queue_first, "-", target.queue_last);
}

// Untracked packets have no original destination in connection tracking. A transparent proxy asks
// getsockname() instead, so this is worth a note only.
void NoteUntracked(const SystemView& view, Findings* findings) {
  ForEachEntry(view, [&](const Entry& entry) {
    PacketPattern packet = FirstPacket(entry, entry.target.tcp ? Proto::kTcp : Proto::kUdp);
    packet.ct_state.reset();  // raw's rules come before connection tracking
    for (const ChainFacts& chain : view.ruleset.chains) {
      if (chain.hook != NF_INET_PRE_ROUTING || !SeesFamily(chain.family, entry.family)) continue;
      for (const RuleFacts& rule : chain.rules) {
        if (!rule.notrack || Fits(rule, packet) != Fit::kYes) continue;
        Finding f;
        f.id = "conntrack_full";
        f.severity = Severity::kInfo;
        f.where = absl::StrCat(WhereText(entry), ", chain ", chain.name);
        f.cause =
            "A rule takes the target's packets out of connection tracking: a proxy that asks "
            "for SO_ORIGINAL_DST rather than getsockname() does not learn where they go.";
        f.fix = DeleteRule({chain.family, chain.table, chain.name, rule.handle, false});
        findings->push_back(std::move(f));
      }
    }
  });
}

struct Feature {
  const char* name;
  const char* what;
  const char* module;
  bool for_kernel_target;  // also needed where utproxy's daemon is not
};
constexpr std::array kFeatures = {
    Feature{"sock_diag", "sock_diag for TCP and UDP (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG)",
            "inet_diag tcp_diag udp_diag", true},
    Feature{"NFQUEUE", "nft's queue expression or the xt target NFQUEUE",
            "nft_queue xt_NFQUEUE nfnetlink_queue", false},
    Feature{"sk_lookup", "BPF programs of type sk_lookup (Linux 5.9, CONFIG_BPF_SYSCALL)", "",
            false},
};

}  // namespace

void CheckQueueUnbound(const SystemView& view, Findings* findings) {
  for (size_t i = 0; i < view.targets.size(); ++i) {
    const ProxyTarget& target = view.targets[i];
    if (target.kind != ProxyTarget::Kind::kQueue) continue;
    std::vector<uint32_t> unread;
    for (uint32_t n = target.queue_first; n <= target.queue_last; ++n) {
      if (FindQueue(view, n) == nullptr) unread.push_back(n);
    }
    if (unread.empty()) continue;
    Finding f;
    f.id = "queue_unbound";
    f.target = i;
    f.where = QueuesText(target);
    f.cause = absl::StrCat(
        "A rule sends packets to queue ", unread[0],
        unread.size() > 1 ? absl::StrCat(" and ", unread.size() - 1, " more") : "",
        ", which nobody reads: they ", target.bypass ? "pass unproxied (bypass)." : "are dropped.");
    f.fix = RunCommand(target);
    findings->push_back(std::move(f));
  }
}

void CheckDaemonSilent(const SystemView& view, Findings* findings) {
  if (view.daemon_silence.empty()) return;
  Finding f;
  f.id = "daemon_silent";
  f.target = view.targets.size();  // of none
  f.where = view.silent_pid != 0 ? absl::StrCat("utproxy, pid ", view.silent_pid) : "utproxy";
  const auto process = view.processes.find(view.silent_pid);
  const bool stopped = process != view.processes.end() && process->second.stopped;
  f.cause = absl::StrCat("A utproxy runs but gives no answer (", view.daemon_silence, "): it is ",
                         stopped ? "stopped" : "stopped or stuck",
                         ", and what its queues hold waits with it, until they are full and drop.");
  if (stopped) {
    f.fix = absl::StrCat("kill -CONT ", view.silent_pid);
  } else if (process != view.processes.end()) {
    // SIGKILL, since one that is stuck does not heed SIGTERM; its table goes with it.
    f.fix = absl::StrCat("kill -KILL ", view.silent_pid, "; ",
                         absl::StrJoin(process->second.command_line, " ",
                                       [](std::string* out, const std::string& word) {
                                         absl::StrAppend(out, ShellWord(word));
                                       }));
  } else {
    f.fix = "utproxy stats";
  }
  findings->push_back(std::move(f));
}

void CheckQueueOverflow(const SystemView& view, Findings* findings) {
  for (const QueueFacts& queue : view.queues) {
    const uint64_t lost = queue.dropped + queue.user_dropped;
    const bool ours = std::any_of(view.targets.begin(), view.targets.end(), [&](const auto& t) {
      return t.kind == ProxyTarget::Kind::kQueue && t.queue_first <= queue.number &&
             queue.number <= t.queue_last;
    });
    if (lost == 0 || !ours) continue;
    Finding f;
    f.id = "queue_overflow";
    // Fewer than one in a thousand is a burst that was over quickly.
    f.severity = lost * 1000 >= queue.packets + lost ? Severity::kError : Severity::kWarning;
    f.where = absl::StrCat("queue ", queue.number);
    f.cause = absl::StrCat("Of ", queue.packets + lost, " packets ", queue.dropped,
                           " were dropped since the queue was full and ", queue.user_dropped,
                           " since the reader's socket buffer was; ", queue.depth, " wait now.");
    const ProxyTarget reader{.queue_first = queue.number, .queue_last = queue.number};
    f.fix = RestartDaemon(view, reader, {{"--rcvbuf", ""}, {"--queue-maxlen", "65536"}});
    if (f.fix.empty()) f.fix = "utproxy run --queue-maxlen 65536";
    findings->push_back(std::move(f));
  }
}

void CheckReloadLoss(const SystemView& view, Findings* findings) {
  if (!view.daemon || view.daemon->flushed == 0) return;
  Finding f;
  f.id = "ruleset_reload_loss";
  f.where = "all queues";
  f.cause = absl::StrCat(
      view.daemon->flushed,
      " packets vanished from the queues before their verdict: whenever a base chain is deleted, "
      "as a reload that begins with `flush ruleset` does, the kernel drops all that wait in any "
      "queue. The fix has /etc/nftables.conf empty its "
      "tables instead.");
  f.fix =
      "text=$(sed \"s/^flush ruleset$/$(nft list tables | grep -v ' utproxy$' | sed 's/.*/&; flush "
      "&;/' | tr '\\n' ' ')/\" /etc/nftables.conf) && printf '%s\\n' \"$text\" > "
      "/etc/nftables.conf";
  f.severity = Severity::kWarning;
  findings->push_back(std::move(f));
}

void CheckConntrack(const SystemView& view, Findings* findings) {
  NoteUntracked(view, findings);
  if (view.conntrack_max > 0 && view.conntrack_count * 10 >= view.conntrack_max * 9) {
    Finding f;
    f.id = "conntrack_full";
    f.severity = view.conntrack_count * 100 >= view.conntrack_max * 98 ? Severity::kError
                                                                       : Severity::kWarning;
    f.where = "nf_conntrack";
    f.cause = absl::StrCat("Connection tracking has ", view.conntrack_count, " of at most ",
                           view.conntrack_max,
                           " entries; when it is full, packets of new flows are dropped.");
    f.fix = absl::StrCat("sysctl -w net.netfilter.nf_conntrack_max=", view.conntrack_max * 4);
    findings->push_back(std::move(f));
  }
}

void CheckFragments(const SystemView& view, Findings* findings) {
  if (DefragIsOn(view) || !view.ruleset_read) return;
  for (const ProxyTarget& target : view.targets) {
    if (target.kind != ProxyTarget::Kind::kQueue || !target.udp) continue;
    const uint64_t seen = view.daemon ? view.daemon->fragments : 0;
    Finding f;
    f.id = "fragments";
    f.severity = seen > 0 ? Severity::kError : Severity::kWarning;
    f.where = QueuesText(target);
    f.cause = absl::StrCat(
        "Nothing in this network namespace reassembles fragments before the queue, so large "
        "datagrams come in pieces without ports and are dropped",
        seen > 0 ? absl::StrCat(": ", seen, " so far.") : ".");
    f.fix =
        "nft 'add table inet utproxy_defrag; add chain inet utproxy_defrag prerouting { type "
        "filter "
        "hook prerouting priority raw; }; add rule inet utproxy_defrag prerouting ct state invalid "
        "counter'";
    findings->push_back(std::move(f));
  }
}

void CheckFeatures(const SystemView& view, Findings* findings) {
  const bool queue = std::any_of(view.targets.begin(), view.targets.end(), [](const auto& t) {
    return t.kind == ProxyTarget::Kind::kQueue || t.from_user;
  });
  for (const Feature& feature : kFeatures) {
    const auto it = view.features.find(feature.name);
    if (it == view.features.end() || it->second || (!queue && !feature.for_kernel_target)) continue;
    Finding f;
    f.id = "kernel_feature_missing";
    f.severity = feature.for_kernel_target && !queue ? Severity::kWarning : Severity::kError;
    f.where = feature.name;
    f.cause = absl::StrCat("This kernel has no ", feature.what,
                           ", which utproxy needs: it is not built in, and no module brings it.");
    f.fix = *feature.module != '\0' ? absl::StrCat("modprobe -a ", feature.module)
                                    : "apt-get install linux-image-amd64";
    findings->push_back(std::move(f));
  }
}

}  // namespace utproxy
