// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/ruleset.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <linux/netfilter.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/status.h"
#include "ruleset/iptables_text.h"
#include "ruleset/nft_objects.h"
#include "ruleset/nft_text.h"
#include "ruleset/validate.h"

namespace utproxy {
namespace {

absl::StatusOr<NftDialect> ChooseDialect(const NftFeatures& features,
                                         std::vector<std::string>& warnings) {
  if (!features.native_queue && !features.xt_queue) {
    return WithRemedy(absl::UnimplementedError("nftables: this kernel can queue no packets"),
                      "load or build in nft_queue, or nft_compat and xt_NFQUEUE");
  }
  if (!features.tproxy && !features.ct) {
    return WithRemedy(absl::UnimplementedError("nftables: this kernel can not reassemble "
                                               "fragments before they are queued"),
                      "load or build in nft_tproxy or nft_ct");
  }
  if (!features.tproxy) {
    warnings.push_back(
        "this kernel has no nft tproxy expression: fragments are reassembled by "
        "switching connection tracking on");
  }
  if (!features.owner) {
    warnings.push_back(
        "this kernel has no owner flag for nftables tables (Linux 5.12): after "
        "kill -9 the table stays until the next start");
  }
  return NftDialect{features.native_queue, features.tproxy};
}

// The table as found; error where it is in the way. `take` names the comments of tables that may
// be replaced. True where there is one to replace.
absl::StatusOr<bool> CheckTable(NetlinkSocket& nft, absl::string_view take) {
  ASSIGN_OR_RETURN(const std::optional<NftTable> table, FindTable(nft, NFPROTO_INET, kTableName));
  if (!table) return false;
  const std::string what = absl::StrCat("nftables table inet ", kTableName);
  if (table->owner != 0) {
    return WithRemedy(absl::AlreadyExistsError(absl::StrCat(
                          what, ": a running utproxy holds it (netlink port ", table->owner, ")")),
                      "stop that utproxy first; there is one ruleset in a network namespace");
  }
  if (table->comment == take) return true;
  if (table->comment == kPersistentComment) {
    return WithRemedy(
        absl::AlreadyExistsError(absl::StrCat(what, ": was left by `utproxy ruleset install`")),
        "utproxy ruleset remove, or run without --install");
  }
  if (table->comment == kRunComment) {
    return WithRemedy(absl::AlreadyExistsError(absl::StrCat(what, ": belongs to a utproxy run")),
                      "stop that utproxy, then: utproxy ruleset remove");
  }
  return WithRemedy(
      absl::AlreadyExistsError(absl::StrCat(what, ": exists and is not utproxy's")),
      absl::StrCat("delete it (nft delete table inet ", kTableName, ") or rename it"));
}

// The option that wants nft's `socket` in front of the queue or behind it; empty where none does.
absl::string_view SocketRulesOption(const RulesetSpec& spec) {
  if (spec.fast_path) return "--fast-path divert";
  return spec.divert_replies ? "--divert-replies" : "";
}

absl::Status CheckSocketRules(absl::Span<const RulesetSpec> specs, const NftFeatures& features) {
  for (const RulesetSpec& spec : specs) {
    RETURN_IF_ERROR(KernelBears(spec));
    const absl::string_view option = SocketRulesOption(spec);
    if (option.empty() || features.socket) continue;
    return WithRemedy(absl::UnimplementedError(
                          absl::StrCat(option, ": this kernel has no nft socket expression")),
                      absl::StrCat("load or build in nft_socket, or run without ", option));
  }
  return absl::OkStatus();
}

struct Installed {
  NetlinkSocket nft;
  NftDialect dialect;
  std::vector<Chain> chains;
  bool owned = false;
  std::vector<std::string> warnings;
};

// Everything that either kind of installation does. Routes and rules come first: a packet queued
// before they are there would be accepted and led astray.
absl::StatusOr<Installed> DoInstall(absl::Span<const RulesetSpec> specs, bool owned) {
  ASSIGN_OR_RETURN(std::vector<Chain> chains, CompilePlan(specs));
  ASSIGN_OR_RETURN(NetlinkSocket nft, OpenNftSocket());
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  ASSIGN_OR_RETURN(const NftFeatures features, ProbeNft(nft));
  RETURN_IF_ERROR(CheckSocketRules(specs, features));
  std::vector<std::string> warnings;
  ASSIGN_OR_RETURN(NftDialect dialect, ChooseDialect(features, warnings));
  dialect.skip_missing_cgroups = owned;  // the daemon looks again
  const absl::string_view comment = owned ? kRunComment : kPersistentComment;
  ASSIGN_OR_RETURN(const bool replace, CheckTable(nft, comment));

  const std::vector<DeliveryItem> wanted = WantedDelivery(specs);
  ASSIGN_OR_RETURN(DeliveryChange change, AddDelivery(route, wanted));
  const NftInstall install{comment, owned && features.owner && !AnyOutlives(specs), replace,
                           dialect};
  if (absl::Status status = InstallTable(nft, chains, install); !status.ok()) {
    (void)DeleteDelivery(route, change.added);
    return status;
  }
  warnings.insert(warnings.end(), change.warnings.begin(), change.warnings.end());
  for (std::string& loop : LoopsIn(specs)) warnings.push_back(std::move(loop));
  if (absl::Status status = DeleteOtherDelivery(route, wanted); !status.ok()) {
    warnings.push_back(absl::StrCat("leftovers of an earlier run stay: ", status.message()));
  }
  return Installed{std::move(nft), dialect, std::move(chains), install.owned, std::move(warnings)};
}

}  // namespace

bool AnyOutlives(absl::Span<const RulesetSpec> specs) {
  return std::any_of(specs.begin(), specs.end(),
                     [](const RulesetSpec& spec) { return spec.outlives; });
}

std::vector<std::string> LoopsIn(absl::Span<const RulesetSpec> specs) {
  std::vector<std::string> warnings;
  for (size_t i = 0; i < specs.size(); ++i) {
    const RulesetSpec& spec = specs[i];
    if (!spec.local_output || !spec.exclude_marks.empty() || !spec.exclude_uids.empty() ||
        !spec.exclude_cgroups.empty()) {
      continue;
    }
    warnings.push_back(absl::StrCat(
        TargetName(spec, i),
        ": local output without an exclusion: if the proxy itself sends what "
        "the target matches, it is handed its own packets; exclude it by mark, user or cgroup"));
  }
  return warnings;
}

absl::Status KernelBears(const RulesetSpec& spec) {
  const absl::string_view option = SocketRulesOption(spec);
  utsname kernel{};
  int major = 0, minor = 0;
  if (option.empty() || ::uname(&kernel) != 0 ||
      std::sscanf(kernel.release, "%d.%d", &major, &minor) != 2) {
    return absl::OkStatus();  // not to be told: the rules themselves will be taken or not
  }
  if (std::pair(major, minor) >= std::pair(5, 15)) return absl::OkStatus();
  // It keeps a reference to each request socket and TIME_WAIT it meets.
  return WithRemedy(absl::UnimplementedError(absl::StrCat(
                        option, ": Linux ", kernel.release,
                        " loses memory where nft's `socket wildcard` meets a TIME_WAIT")),
                    absl::StrCat("use Linux 5.15 or later, or run without ", option));
}

InstalledRuleset::InstalledRuleset(NetlinkSocket nft, NftDialect dialect, std::vector<Chain> chains)
    : nft_(std::make_unique<NetlinkSocket>(std::move(nft))),
      dialect_(dialect),
      chains_(std::move(chains)),
      live_bases_(BaseChains()) {}

std::vector<std::string> InstalledRuleset::BaseChains() const {
  std::vector<std::string> names;
  for (const Chain& chain : chains_) {
    if (chain.hook != Hook::kNone) names.push_back(chain.name);
  }
  return names;
}

absl::StatusOr<InstalledRuleset> InstalledRuleset::Install(absl::Span<const RulesetSpec> specs) {
  ASSIGN_OR_RETURN(Installed installed, DoInstall(specs, true));
  InstalledRuleset ruleset(std::move(installed.nft), installed.dialect,
                           std::move(installed.chains));
  ruleset.outlives_ = AnyOutlives(specs);
  ruleset.owned_ = installed.owned;
  ruleset.warnings_ = std::move(installed.warnings);
  RETURN_IF_ERROR(ruleset.NoteRules());
  return ruleset;
}

absl::StatusOr<InstalledRuleset> InstalledRuleset::Adopt(UniqueFd fd,
                                                         absl::Span<const RulesetSpec> specs) {
  ASSIGN_OR_RETURN(std::vector<Chain> chains, CompilePlan(specs));
  ASSIGN_OR_RETURN(NetlinkSocket nft, NetlinkSocket::Adopt(std::move(fd), NETLINK_NETFILTER));
  ASSIGN_OR_RETURN(const std::optional<NftTable> table, FindTable(nft, NFPROTO_INET, kTableName));
  if (!table || table->comment != kRunComment ||
      (table->owner != nft.port_id() && table->owner != 0)) {
    return absl::FailedPreconditionError("take over the ruleset: it is gone");
  }
  ASSIGN_OR_RETURN(const NftFeatures features, ProbeNft(nft));
  RETURN_IF_ERROR(CheckSocketRules(specs, features));
  std::vector<std::string> warnings;
  ASSIGN_OR_RETURN(NftDialect dialect, ChooseDialect(features, warnings));
  dialect.skip_missing_cgroups = true;  // the daemon looks again
  std::vector<Chain> found;
  std::vector<std::string> bases;
  ASSIGN_OR_RETURN(const std::vector<nft::FoundChain> there, nft::ListChains(nft));
  for (const nft::FoundChain& chain : there) {
    if (chain.base) bases.push_back(chain.name);
    if (!chain.base) found.push_back({.name = chain.name, .hook = Hook::kNone, .rules = {}});
  }
  InstalledRuleset ruleset(std::move(nft), dialect, std::move(found));
  ruleset.live_bases_ = std::move(bases);
  ruleset.outlives_ = table->owner == 0;
  ruleset.owned_ = table->owner != 0;
  absl::Status status = ruleset.Begin(specs);
  if (status.ok()) status = ruleset.Switch(specs);
  if (!status.ok()) {
    ruleset.Leave();
    return status;
  }
  ruleset.warnings_.insert(ruleset.warnings_.begin(), warnings.begin(), warnings.end());
  return ruleset;
}

InstalledRuleset::~InstalledRuleset() { (void)Remove(); }

absl::Status InstalledRuleset::Update(absl::Span<const RulesetSpec> specs) {
  RETURN_IF_ERROR(Begin(specs));
  RETURN_IF_ERROR(Switch(specs));
  return Finish(specs);
}

absl::Status InstalledRuleset::Begin(absl::Span<const RulesetSpec> specs) {
  if (!nft_) return absl::FailedPreconditionError("update the ruleset: it was removed");
  if (!specs.empty()) RETURN_IF_ERROR(ValidateSpecs(specs));
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  ASSIGN_OR_RETURN(DeliveryChange change, AddDelivery(route, WantedDelivery(specs)));
  begun_ = std::move(change.added);
  warnings_ = std::move(change.warnings);
  for (std::string& loop : LoopsIn(specs)) warnings_.push_back(std::move(loop));
  return absl::OkStatus();
}

absl::Status InstalledRuleset::Switch(absl::Span<const RulesetSpec> specs) {
  std::vector<Chain> chains;
  absl::Status status;
  if (!specs.empty()) {
    absl::StatusOr<std::vector<Chain>> plan = CompilePlan(specs);
    status = plan.status();
    if (plan.ok()) chains = *std::move(plan);
  }
  if (status.ok()) status = UpdateTable(*nft_, chains_, chains, dialect_, live_bases_);
  if (!status.ok()) {
    Undo();
    return status;
  }
  chains_ = std::move(chains);
  (void)NoteRules();  // what is not counted is made again, which does no harm
  return absl::OkStatus();
}

void InstalledRuleset::Undo() {
  absl::StatusOr<NetlinkSocket> route = NetlinkSocket::Open(NETLINK_ROUTE);
  if (route.ok()) (void)DeleteDelivery(*route, begun_);
  begun_.clear();
}

absl::Status InstalledRuleset::Finish(absl::Span<const RulesetSpec> specs) {
  begun_.clear();
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  return DeleteOtherDelivery(route, WantedDelivery(specs));
}

absl::Status InstalledRuleset::StopQueueing() {
  if (!nft_) return absl::OkStatus();
  const absl::Status status = UpdateTable(*nft_, chains_, {}, dialect_, live_bases_);
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  chains_.clear();
  return absl::OkStatus();
}

absl::Status InstalledRuleset::Remove() {
  if (!nft_) return absl::OkStatus();
  absl::Status first = DeleteTable(*nft_);
  nft_.reset();  // closing the socket deletes an owned table as well
  absl::StatusOr<NetlinkSocket> route = NetlinkSocket::Open(NETLINK_ROUTE);
  first.Update(route.ok() ? DeleteOtherDelivery(*route, {}) : route.status());
  return first;
}

absl::StatusOr<std::vector<std::string>> InstallPersistentRuleset(
    absl::Span<const RulesetSpec> specs) {
  ASSIGN_OR_RETURN(Installed installed, DoInstall(specs, false));
  return std::move(installed.warnings);
}

absl::Status RemoveRuleset() {
  ASSIGN_OR_RETURN(NetlinkSocket nft, OpenNftSocket());
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  ASSIGN_OR_RETURN(const std::optional<NftTable> table, FindTable(nft, NFPROTO_INET, kTableName));
  if (table && table->owner != 0) {
    return WithRemedy(
        absl::FailedPreconditionError(absl::StrCat("remove the ruleset: a running utproxy holds it "
                                                   "(netlink port ",
                                                   table->owner, ")")),
        "stop that utproxy: it takes its ruleset away when it ends");
  }
  if (table && absl::StartsWith(table->comment, kTableName)) RETURN_IF_ERROR(DeleteTable(nft));
  RETURN_IF_ERROR(DeleteIptablesChains(nft));
  return DeleteOtherDelivery(route, {});
}

absl::StatusOr<bool> KernelHasNativeQueue() {
  ASSIGN_OR_RETURN(NetlinkSocket nft, OpenNftSocket());
  ASSIGN_OR_RETURN(const NftFeatures features, ProbeNft(nft));
  return features.native_queue;
}

absl::StatusOr<std::string> PrintRuleset(absl::Span<const RulesetSpec> specs, bool native_queue) {
  ASSIGN_OR_RETURN(std::vector<Chain> chains, CompilePlan(specs));
  std::string text = "# For a root shell. To undo: utproxy ruleset remove\n", iptables;
  for (const DeliveryItem& item : WantedDelivery(specs)) {
    absl::StrAppend(&text, DeliveryCommand(item), "\n");
  }
  std::vector<Chain> nft_chains;
  const bool fast = !native_queue && !SetsOf(chains).empty();
  if (fast) {
    iptables =
        "# Without the fast path, as iptables has no words for it; `utproxy ruleset install` "
        "makes its rules here too.\n";
  }
  for (Chain& chain : chains) {
    if (fast && chain.hook == Hook::kAfterQueue) continue;
    if (native_queue || chain.hook != Hook::kPrerouting) {
      nft_chains.push_back(std::move(chain));
      continue;
    }
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      absl::StrAppend(&iptables, ChainToIptables(chain, family));
    }
    // What is for the packets that iptables' rules do not queue stays nft's, behind those.
    Chain rest{chain.name, Hook::kAfterQueue};
    for (Rule& rule : chain.rules) {
      if (std::holds_alternative<Jump>(rule.statement)) rest.rules.push_back(std::move(rule));
    }
    if (!rest.rules.empty()) nft_chains.push_back(std::move(rest));
  }
  return absl::StrCat(text, "nft -f - <<'EOF'\n", TableToNft(nft_chains, kPersistentComment),
                      "EOF\n", iptables);
}

}  // namespace utproxy
