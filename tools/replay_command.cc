// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <istream>
#include <memory>
#include <ostream>
#include <string>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/explainer.h"
#include "daemon/snapshot.h"
#include "daemon/trace_json.h"
#include "replay.h"
#include "target_options.h"
#include "trace/capture_reader.h"
#include "trace_output.h"
#include "values.h"

namespace utproxy::tools {
namespace {

class ReplayCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Argument({.placeholder = "CAPTURE",
                      .help = "a pcap or pcapng file; - for standard input",
                      .set = [this](absl::string_view path) {
                        capture_ = std::string(path);
                        return absl::OkStatus();
                      }});
    options.Section("What the host was like");
    options.Value("--sockets", "SNAPSHOT.json", "what 'utproxy sockets -j --interfaces' wrote",
                  [this](absl::string_view path) {
                    snapshot_ = std::string(path);
                    return absl::OkStatus();
                  });
    options.Value("--iif", "NAME",
                  "the interface the packets came in by, where the capture does "
                  "not tell",
                  [this](absl::string_view text) -> absl::Status {
                    ASSIGN_OR_RETURN(iif_, ParseInterfaceName(text));
                    return absl::OkStatus();
                  });
    options.Section("Target");
    target_.AddPolicy(options);
    options.Section("Output");
    options.Flag("--json", "one JSON object a packet, with every step", &json_, "-j");
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(target_.Finish());
    if (snapshot_.empty()) {
      return UsageError("--sockets: missing: a file that 'utproxy sockets -j --interfaces' wrote");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(HostSnapshot snapshot, ReadSnapshot());
    std::FILE* file = capture_ == "-" ? stdin : std::fopen(capture_.c_str(), "rb");
    if (file == nullptr) return ErrnoStatus(errno, absl::StrCat("read capture ", capture_));
    ASSIGN_OR_RETURN(CaptureReader capture, CaptureReader::Open(file, capture_));
    Replay replay(std::move(snapshot), target_.target.policy, iif_, target_.target.spread);
    const std::unique_ptr<TraceOutput> output = json_ ? MakeJsonOutput(env) : MakeTextOutput(env);
    CapturedPacket packet;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, capture.Next(&packet));
      if (!more || !output->Take(replay.Decide(packet, /*steps=*/json_))) break;
    }
    Tell(env, capture, replay);
    RETURN_IF_ERROR(output->Finish());
    return kExitOk;
  }

 private:
  absl::StatusOr<HostSnapshot> ReadSnapshot() const {
    std::ifstream file(snapshot_);
    if (!file.good()) return ErrnoStatus(errno, absl::StrCat("read snapshot ", snapshot_));
    absl::StatusOr<HostSnapshot> snapshot = HostSnapshot::Read(file);
    if (!snapshot.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("read snapshot ", snapshot_, ": ", snapshot.status().message()));
    }
    return snapshot;
  }

  // What makes the answers less than sure.
  static void Tell(Environment& env, const CaptureReader& capture, const Replay& replay) {
    if (capture.skipped() != 0) {
      env.err << "utproxy: replay: " << capture.skipped() << " packets are not IP: passed over\n";
    }
    if (replay.without_address() != 0) {
      env.err << "utproxy: replay: for " << replay.without_address()
              << " packets the ingress interface's address is not known, and their own destination "
                 "was taken: name it with --iif, take the snapshot with 'utproxy sockets -j "
                 "--interfaces', or give --on-ip\n";
    }
    if (replay.uncertain() != 0) {
      env.err << "utproxy: replay: for " << replay.uncertain()
              << " packets several sockets would do, and which of them the kernel takes (a "
                 "SO_REUSEPORT group's hash, SO_INCOMING_CPU) no snapshot tells\n";
    }
    env.err.flush();
  }

  std::string capture_;
  std::string snapshot_;
  std::string iif_;
  TargetOptions target_;
  bool json_ = false;
};

}  // namespace

CommandEntry ReplayEntry() {
  return {
      "replay", "decide a capture's packets offline",
      "Decides the packets of a capture, as 'utproxy trace --write' or tcpdump made it, over a "
      "snapshot of a host's sockets: what a bug report needs to be looked into elsewhere. Asks "
      "no kernel and needs no privilege. Interface and mark are those that the capture tells "
      "(trace --write, tcpdump -i nflog:N; of cooked captures the interface).",
      "utproxy replay decisions.pcapng --sockets snapshot.json --on-port 1090 --tproxy-mark 0x1",
      [] { return std::unique_ptr<Command>(new ReplayCommand); }};
}

}  // namespace utproxy::tools
