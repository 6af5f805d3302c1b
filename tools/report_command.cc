// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <sys/utsname.h>

#include <cstdio>
#include <memory>
#include <ostream>
#include <set>
#include <vector>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/control_client.h"
#include "daemon/json.h"
#include "daemon/snapshot.h"
#include "decision_capture.h"
#include "diagnose/anonymizer.h"
#include "diagnose/packet_mask.h"
#include "doctor_source.h"
#include "doctor_text.h"
#include "mirror/inherit.h"
#include "mirror/interfaces.h"
#include "printable.h"
#include "report_tar.h"

namespace utproxy::tools {
namespace {

// Some 2 KB each.
constexpr uint32_t kLastDecisions = 1000;

// What a command prints, its errors too. `command` is one of our own, never a user's word.
std::string OutputOf(const char* command) {
  std::string text = absl::StrCat("# ", command, "\n");
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      ::popen(absl::StrCat(command, " 2>&1").c_str(), "re"), &::pclose);
  if (!pipe) return text + "could not be started\n";
  char buffer[4096];
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, pipe.get())) text.append(buffer, n);
  return text + "\n";
}

std::string OutputOfAll(const std::vector<const char*>& commands) {
  std::string text;
  for (const char* command : commands) absl::StrAppend(&text, OutputOf(command));
  return text;
}

std::string VersionText() {
  utsname system{};
  ::uname(&system);
  return absl::StrCat("utproxy ", UTPROXY_VERSION, "\n", system.sysname, " ", system.release, " ",
                      system.version, " ", system.machine, "\n",
                      absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone()), "\n");
}

class ReportCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Argument({.placeholder = "FILE",
                      .help = "the tar to write; compressed where the name ends in gz",
                      .required = true,
                      .repeated = false,
                      .set = [this](absl::string_view path) {
                        path_ = std::string(path);
                        return absl::OkStatus();
                      }});
    source_.AddWords(options);
    options.Section("Output");
    options.Flag("--anonymize", "put made-up addresses in the place of all, the same for the same",
                 &anonymize_);
  }

  absl::Status Check() override { return source_.Finish(); }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(std::vector<ReportFile> files, Collect());
    RETURN_IF_ERROR(WriteNewTar(path_, files));
    env.out << Printable(path_) << ": "
            << absl::StrJoin(
                   files, ", ",
                   [](std::string* out, const ReportFile& f) { absl::StrAppend(out, f.name); })
            << "\n";
    return kExitOk;
  }

 private:
  absl::StatusOr<std::vector<ReportFile>> Collect() {
    files_ = {};
    Add("version", VersionText());
    ASSIGN_OR_RETURN(const SystemView view, source_.Load());
    const Findings findings = Diagnose(view);
    Add("doctor.txt", DoctorText(view, findings, 100, false));
    Add("doctor.json", JsonLine(DoctorJson(findings)) + "\n");
    ASSIGN_OR_RETURN(const std::string sockets, KernelSockets(view));
    const bool daemon = AddDaemon();
    Add(daemon ? "sockets-kernel.json" : "sockets.json", sockets);
    Add("replay", ReplayText(view, daemon));
    Add("ruleset", OutputOfAll({"nft -a -s list ruleset", "iptables-save", "ip6tables-save",
                                "iptables-legacy-save", "ip6tables-legacy-save"}));
    Add("routing", OutputOfAll({"ip rule", "ip -6 rule", "ip route show table all",
                                "ip -6 route show table all", "ip -d address"}));
    Add("queues", OutputOf("cat /proc/net/netfilter/nfnetlink_queue"));
    return std::move(files_);
  }

  void Add(std::string name, std::string text) {
    files_.push_back({std::move(name), anonymize_ ? anonymizer_.Mask(text) : std::move(text)});
  }

  // As `sockets --exact -j --interfaces` has them.
  static absl::StatusOr<std::string> KernelSockets(const SystemView& view) {
    ASSIGN_OR_RETURN(const auto interfaces, ReadInterfaces());
    std::string text;
    for (const Json& json : InterfacesJson(*interfaces)) {
      absl::StrAppend(&text, JsonLine(json), "\n");
    }
    for (const SocketFacts& each : view.sockets) {
      std::optional<SocketOwner> owner;
      if (each.pid != 0) owner = SocketOwner{.pid = each.pid, .fd = each.fd, .comm = each.comm};
      Socket socket = each.socket;
      InheritTransparency(nullptr, *interfaces, std::nullopt, &socket);
      absl::StrAppend(&text, JsonLine(ToJson(socket, SystemInterfaceName, owner)), "\n");
    }
    return text;
  }

  // What only a running utproxy knows; a report without one is a report, too. False where it does
  // not tell of its sockets and decisions.
  bool AddDaemon() {
    const std::string control = source_.ControlPath();
    Add("stats.json", AnswerOf(control, {{"command", "stats"}}, kBeginNs));
    Json request = {{"command", "trace"}, {"last", kLastDecisions}, {"steps", true}, {"raw", true}};
    std::vector<Json> answers;
    absl::Status status = Ask(control, request, &answers);
    if (!status.ok()) {
      Add("decisions.json", JsonLine({{"error", status.message()}}) + "\n");
      return false;
    }
    AddDecisions(answers);
    // The sockets that they were decided over, as near as can be had.
    std::vector<Json> sockets;
    status = Ask(control, {{"command", "sockets"}, {"interfaces", true}}, &sockets);
    if (status.ok()) Add("sockets.json", LinesOf(sockets));
    return status.ok();
  }

  void AddDecisions(const std::vector<Json>& answers) {
    std::string lines;
    DecisionCapture frames;
    std::string capture = frames.Header();
    for (Json decision : answers) {
      const bool captured = decision.contains("raw");
      if (captured && anonymize_) decision = Masked(std::move(decision));
      if (captured) absl::StrAppend(&capture, frames.Packet(decision));
      // Bytes are for the capture.
      decision.erase("raw");
      absl::StrAppend(&lines, JsonLine(decision), "\n");
    }
    files_.push_back({"decisions.json", std::move(lines)});
    files_.push_back({"decisions.pcapng", std::move(capture)});
  }

  Json Masked(Json decision) {
    Json raw = decision.at("raw");
    decision.erase("raw");
    const std::string text = absl::HexStringToBytes(raw.at("bytes").get<std::string>());
    std::vector<uint8_t> bytes(text.begin(), text.end());
    MaskPacket(raw.at("length").get<uint32_t>(), &anonymizer_, &bytes);
    raw.at("bytes") =
        absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    decision = Json::parse(anonymizer_.Mask(JsonLine(decision)));
    decision["raw"] = std::move(raw);
    return decision;
  }

  static std::string ReplayText(const SystemView& view, bool daemon) {
    std::string text = daemon ? "# The decisions of decisions.pcapng once more, by the sockets of "
                                "sockets.json. Connections that came or went in between differ.\n"
                              : "# A capture of tcpdump, decided by the sockets of sockets.json.\n";
    std::set<std::string> commands;
    for (const ProxyTarget& target : view.targets) {
      if (target.policy_known) {
        commands.insert(absl::StrCat("utproxy replay ", daemon ? "decisions.pcapng" : "CAPTURE",
                                     " --sockets sockets.json",
                                     PolicyWords(target.policy, target.spread), "\n"));
      }
    }
    return absl::StrCat(text, absl::StrJoin(commands, ""));
  }

  static std::string PolicyWords(const Policy& policy, const SpreadSpec& spread) {
    std::string words;
    absl::StrAppend(&words, OnPortWords(policy, spread));
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      if (policy.on_ip(family).IsUnspecified()) continue;
      absl::StrAppend(&words, " --on-ip ", policy.on_ip(family).ToString(family));
    }
    absl::StrAppend(&words, " --tproxy-mark ", MarkText(policy.mark_value), "/",
                    MarkText(policy.mark_mask));
    if (policy.on_miss == OnMiss::kAccept) absl::StrAppend(&words, " --on-miss accept");
    return words;
  }

  static absl::Status Ask(const std::string& control, const Json& request,
                          std::vector<Json>* answers) {
    return AskDaemon(control, request, [&](const Json& json) { answers->push_back(json); });
  }

  static std::string LinesOf(const std::vector<Json>& all) {
    return absl::StrJoin(all, "", [](std::string* out, const Json& json) {
      absl::StrAppend(out, JsonLine(json), "\n");
    });
  }

  // The lines of the daemon's answer, or {"error": ...}.
  static std::string AnswerOf(const std::string& control, const Json& request, int64_t line_ns) {
    std::vector<Json> answers;
    const absl::Status status = AskDaemon(
        control, request, [&](const Json& json) { answers.push_back(json); }, line_ns);
    return status.ok() ? LinesOf(answers) : JsonLine({{"error", status.message()}}) + "\n";
  }

  DoctorSource source_;
  std::string path_;
  bool anonymize_ = false;
  Anonymizer anonymizer_;
  std::vector<ReportFile> files_;
};

}  // namespace

CommandEntry ReportEntry() {
  return {"report", "everything a bug report needs, in one tar",
          "Writes sockets, ruleset, rules and routes, doctor's findings, the running daemon's "
          "statistics and last decisions, and versions into one tar, which only its owner may "
          "read. The decisions are a capture too, and its file 'replay' says how to decide them "
          "again. The tar is a new file. Look at it before you pass it on; --anonymize masks "
          "addresses, but not names, and leaves out what packets carry.",
          "utproxy report --anonymize /tmp/utproxy-report.tar.gz",
          [] { return std::unique_ptr<Command>(new ReportCommand); }};
}

}  // namespace utproxy::tools
