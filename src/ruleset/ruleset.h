// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_RULESET_H_
#define UTPROXY_RULESET_RULESET_H_

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "netlink/socket.h"
#include "ruleset/delivery.h"
#include "ruleset/nft_table.h"
#include "ruleset/plan.h"
#include "ruleset/spec.h"

// What `--install` and `utproxy ruleset` do: the nftables table `inet utproxy`, the policy rules
// by mark and the local default routes, for both families, in the network namespace of the calling
// thread. Changing anything needs CAP_NET_ADMIN. Errors are one line and bear a remedy where there
// is one; after an error, nothing has been changed. One ruleset to a network namespace.
//
// What the rules take is the user's match, no more and no less, as in an iptables TPROXY rule with
// the same match: without `iifs` that includes packets to this host's own addresses, and answers
// to the proxy where no port is given.
//
// Local output marks what this host sends, so that it is routed again, to lo, and is queued when it
// comes in there. It does not reach what has no route in the first place (the sender gets
// ENETUNREACH), nor sockets bound to a device (the local route by way of lo does not fit them), nor
// what goes to this host's own, broadcast, anycast or multicast addresses. Answers of the proxy
// have local destinations and so are never marked.
namespace utproxy {

// A ruleset that lives with this process: the table is bound to a netlink socket held here
// (NFT_TABLE_F_OWNER), so it vanishes with the process however that ends; where a spec says
// `outlives` it is not, and stays, as does what fails closed. Policy rules and routes cannot be
// bound so: those of a killed process stay, harmless, until the next one adopts them.
// For one thread at a time; may be moved to another thread of the same network namespace.
class InstalledRuleset {
 public:
  // AlreadyExists where another ruleset is installed. `specs` is only read.
  static absl::StatusOr<InstalledRuleset> Install(absl::Span<const RulesetSpec> specs);

  // Goes on with the ruleset of another process, `fd` being the socket that its table is bound to,
  // and makes the rules what `specs` are, in one transaction. The other process may not use it any
  // more. FailedPrecondition, and nothing changed, where there is no such table.
  static absl::StatusOr<InstalledRuleset> Adopt(UniqueFd fd, absl::Span<const RulesetSpec> specs);
  // Leaves everything as it is, to who adopts it.
  void Leave() { nft_.reset(); }

  InstalledRuleset(InstalledRuleset&&) = default;
  InstalledRuleset& operator=(InstalledRuleset&&) = delete;
  ~InstalledRuleset();  // Remove()

  // Brings the ruleset to `specs`: packets meet the old rules or the new, never neither, and no
  // packet waiting in a queue is lost. After an error the old ruleset is in place. Cgroup paths
  // are resolved anew. Replaces warnings().
  absl::Status Update(absl::Span<const RulesetSpec> specs);

  // Update in three steps, for who has something to do in between; `specs`, which may be empty, are
  // the same in all. Begin adds policy rules and routes, so that packets with the new marks are
  // delivered. Switch changes the rules, or on an error takes away what Begin added, and so does
  // Undo. Finish takes the old policy rules and routes away: once no packet with an old mark is on
  // its way.
  absl::Status Begin(absl::Span<const RulesetSpec> specs);
  absl::Status Switch(absl::Span<const RulesetSpec> specs);
  void Undo();
  absl::Status Finish(absl::Span<const RulesetSpec> specs);

  // Puts back policy rules and routes that somebody has taken away, and says which. Cheap enough
  // for once a second.
  absl::StatusOr<std::vector<std::string>> RestoreDelivery(absl::Span<const RulesetSpec> specs);
  // Whether the table is as this made it: there, with all chains and as many rules. Nobody else can
  // change one that is bound to its socket. May be called while another uses nft().
  absl::StatusOr<bool> TableStands();
  // Makes the table anew where it does not stand. Packets that wait in queues are lost where a part
  // of it is still there.
  absl::Status RestoreTable();

  // No packet is queued or marked from now on; everything else stays. The first half of a clean
  // end: Remove() unregisters netfilter hooks, at which the kernel drops every packet that waits
  // in any queue of the namespace. So: StopQueueing, give the verdicts that are due, Remove.
  absl::Status StopQueueing();

  // Takes away everything of ours, also what a killed process left. Idempotent.
  absl::Status Remove();

  // Whether the table stays where the process ends suddenly. Settled by Install().
  bool outlives() const { return outlives_; }

  // The socket that the table is bound to, for the sets of the fast path (fast_path_sets.h). Not
  // while another function of this runs; not after Remove().
  NetlinkSocket* nft() { return nft_.get(); }

  // One sentence each, for the log: "IPv6 is off in this network namespace, ...".
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  InstalledRuleset(NetlinkSocket nft, NftDialect dialect, std::vector<Chain> chains);
  std::vector<std::string> BaseChains() const;
  absl::Status NoteRules();

  std::unique_ptr<NetlinkSocket> nft_;  // null once removed or moved from
  NftDialect dialect_;
  bool outlives_ = false;
  bool owned_ = false;  // the table is bound to nft_
  size_t rules_ = 0;    // in a table that is not
  std::vector<Chain> chains_;
  std::vector<std::string> live_bases_;
  std::vector<DeliveryItem> begun_;
  std::vector<std::string> warnings_;
};

// A sentence, which installing them warns with as well, for each that may hand the proxy its own
// packets. No I/O.
std::vector<std::string> LoopsIn(absl::Span<const RulesetSpec> specs);

// Whether one of them is to outlive the process.
bool AnyOutlives(absl::Span<const RulesetSpec> specs);

// Queues, the first and the last one of each rule that leads to some, of a table that a run has
// made and that is not bound to its process: it may be over, or runs and `outlives`. Empty where
// there is no such table.
absl::StatusOr<std::vector<std::pair<uint16_t, uint16_t>>> QueuesOfUnboundRun();

// `ruleset install`: installs and leaves it, in place of an earlier `ruleset install`. Returns
// warnings. AlreadyExists where a running utproxy holds the table.
absl::StatusOr<std::vector<std::string>> InstallPersistentRuleset(
    absl::Span<const RulesetSpec> specs);

// `ruleset remove`: takes away whatever is there of ours: of `ruleset install`, of the pasted
// commands of PrintRuleset, of killed runs. Idempotent. FailedPrecondition, and nothing changed,
// where a running utproxy holds the table.
absl::Status RemoveRuleset();

// Unimplemented where the rules of the fast path or of divert_replies would do harm: before Linux
// 5.15. Changes nothing.
absl::Status KernelBears(const RulesetSpec& spec);

// Whether this kernel has nft's `queue` expression. Needs CAP_NET_ADMIN; changes nothing.
absl::StatusOr<bool> KernelHasNativeQueue();

// `ruleset print`: shell commands that, pasted into a root shell, do what `ruleset install` does.
// Without `native_queue`, the queueing rules are iptables-nft commands, and there are none of the
// fast path's. No I/O.
absl::StatusOr<std::string> PrintRuleset(absl::Span<const RulesetSpec> specs, bool native_queue);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_RULESET_H_
