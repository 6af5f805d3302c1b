// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/validate.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "base/status.h"

namespace utproxy {
namespace {

absl::Status Wrong(absl::string_view what, absl::string_view remedy) {
  return WithRemedy(absl::InvalidArgumentError(what), remedy);
}

// What the kernel's dev_valid_name() takes, less what nft and shells give a meaning to.
absl::Status CheckInterface(absl::string_view name) {
  const std::string what = absl::StrCat("interface name '", name, "'");
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return Wrong(absl::StrCat(what, ": has ", name.size(), " bytes"),
                 "interface names have 1 to 15 bytes: see `ip link`");
  }
  for (const char& c : name) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains("-_.@", absl::string_view(&c, 1))) {
      return Wrong(absl::StrCat(what, ": wildcards and special characters are not supported"),
                   "name each interface in full, as `ip link` shows it");
    }
  }
  if (name == "." || name == "..") {
    return Wrong(absl::StrCat(what, ": not a name that an interface can have"),
                 "name the interface as `ip link` shows it");
  }
  return absl::OkStatus();
}

absl::Status CheckSize(size_t size, size_t most, absl::string_view what) {
  if (size <= most) return absl::OkStatus();
  return Wrong(absl::StrCat(what, ": ", size, " entries, at most ", most, " are supported"),
               "merge neighbouring ones into ranges, or write the rule with a named set by hand");
}

absl::Status CheckMatch(const Match& match) {
  RETURN_IF_ERROR(CheckSize(match.dports.size(), kMaxPortRanges, "ports"));
  RETURN_IF_ERROR(CheckSize(match.iifs.size(), kMaxNames, "interfaces"));
  for (const auto* list : {&match.src, &match.dst, &match.not_src, &match.not_dst}) {
    RETURN_IF_ERROR(CheckSize(list->size(), kMaxCidrs, "address prefixes"));
  }
  for (const PortRange& range : match.dports) {
    if (range.first > range.last) {
      return Wrong(
          absl::StrCat("port range ", range.first, "-", range.last, ": ends before it starts"),
          "write the smaller port first");
    }
  }
  for (const std::string& name : match.iifs) RETURN_IF_ERROR(CheckInterface(name));
  return absl::OkStatus();
}

absl::Status CheckMark(const RulesetSpec& spec) {
  if ((spec.mark_value & spec.mark_mask) != 0) return absl::OkStatus();
  return Wrong(
      absl::StrFormat("mark 0x%x/0x%x: has no bit set inside its mask, so the routing rule "
                      "would take every unmarked packet",
                      spec.mark_value, spec.mark_mask),
      "choose a mark with a bit set inside the mask, such as 0x1/0x1");
}

absl::Status CheckRouteTable(uint32_t table) {
  if (table != RT_TABLE_UNSPEC && table != RT_TABLE_DEFAULT && table != RT_TABLE_MAIN &&
      table != RT_TABLE_LOCAL) {
    return absl::OkStatus();
  }
  return Wrong(absl::StrCat("route table ", table,
                            ": is the kernel's own; a local default route there would cut this "
                            "machine off"),
               "choose a table of its own, such as 100");
}

absl::Status CheckQueues(const RulesetSpec& spec) {
  if (spec.queue_first > spec.queue_last) {
    return Wrong(absl::StrCat("queues ", spec.queue_first, ":", spec.queue_last,
                              ": the range ends before it starts"),
                 "write the smaller number first");
  }
  if (spec.queue_first == 0 && spec.queue_last == 65535) {
    return Wrong("queues 0:65535: the kernel counts the queues of a rule in 16 bits",
                 "use at most 65535 queues; one for each CPU is plenty");
  }
  return absl::OkStatus();
}

absl::Status CheckCgroup(absl::string_view path) {
  int level = 0;
  for (const absl::string_view part :
       absl::StrSplit(absl::StripSuffix(absl::StripPrefix(path, "/"), "/"), '/')) {
    bool printable = !part.empty() && part != "." && part != "..";
    for (const char c : part) printable &= absl::ascii_isprint(c) && c != '"' && c != '\\';
    if (!printable || ++level > 255) {
      return Wrong(absl::StrCat("cgroup '", path, "': not a path below the cgroup v2 root"),
                   "write it as in `systemctl show -p ControlGroup UNIT`");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLocalOutput(const RulesetSpec& spec) {
  const bool excludes =
      !spec.exclude_marks.empty() || !spec.exclude_uids.empty() || !spec.exclude_cgroups.empty();
  if (excludes && !spec.local_output) {
    return Wrong("exclusions by mark, user or cgroup: have no meaning without local output",
                 "add --local-output, or leave the exclusions out");
  }
  RETURN_IF_ERROR(CheckSize(spec.exclude_marks.size(), kMaxNames, "excluded marks"));
  RETURN_IF_ERROR(CheckSize(spec.exclude_uids.size(), kMaxNames, "excluded users"));
  RETURN_IF_ERROR(CheckSize(spec.exclude_cgroups.size(), kMaxNames, "excluded cgroups"));
  for (const MarkMatch& mark : spec.exclude_marks) {
    if ((mark.value & ~mark.mask) != 0) {
      return Wrong(absl::StrFormat("excluded mark 0x%x/0x%x: has bits outside of its mask, so no "
                                   "packet has it",
                                   mark.value, mark.mask),
                   "give a value inside the mask");
    }
    if (mark.mask == 0) {
      return Wrong("excluded mark 0x0/0x0: every packet has it", "give a mask with bits set");
    }
  }
  for (const std::string& path : spec.exclude_cgroups) RETURN_IF_ERROR(CheckCgroup(path));
  return absl::OkStatus();
}

absl::Status CheckSpec(const RulesetSpec& spec) {
  RETURN_IF_ERROR(CheckMatch(spec.match));
  RETURN_IF_ERROR(CheckMark(spec));
  RETURN_IF_ERROR(CheckRouteTable(spec.route_table));
  RETURN_IF_ERROR(CheckQueues(spec));
  return CheckLocalOutput(spec);
}

}  // namespace

std::string TargetName(const RulesetSpec& spec, size_t index) {
  if (spec.name.empty()) return absl::StrCat("target ", index + 1);
  return absl::StrCat("target '", spec.name, "'");
}

absl::Status ValidateSpecs(absl::Span<const RulesetSpec> specs) {
  if (specs.empty()) return Wrong("no target: there is nothing to install", "give one target");
  RETURN_IF_ERROR(CheckSize(specs.size(), kMaxTargets, "targets"));
  for (size_t i = 0; i < specs.size(); ++i) {
    const absl::Status status = CheckSpec(specs[i]);
    if (!status.ok()) {
      return Wrong(absl::StrCat(TargetName(specs[i], i), ": ", status.message()), RemedyOf(status));
    }
  }
  return absl::OkStatus();
}

}  // namespace utproxy
