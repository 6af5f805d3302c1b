// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace_output.h"

#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/time/time.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <ostream>

#include "base/status.h"
#include "printable.h"
#include "trace/nflog_codec.h"
#include "trace/pcapng_writer.h"
#include "trace_text.h"
#include "utproxy/parse.h"

namespace utproxy::tools {
namespace {

// Pipes and files have no width: everything is shown.
size_t WidthOf(const Environment& env) {
  int columns = 0;
  if (absl::SimpleAtoi(env.variable("COLUMNS"), &columns) && columns > 0) {
    return static_cast<size_t>(columns);
  }
  winsize size{};
  if (!env.out_is_terminal) return 200;
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

class TextOutput : public TraceOutput {
 public:
  explicit TextOutput(Environment& env)
      : env_(env), text_(WidthOf(env), env.color(), absl::LocalTimeZone()) {}
  bool Take(const Json& json) override {
    env_.out << text_.Line(json);
    return env_.out.good();
  }
  void Lost(uint64_t lost, uint64_t total) override { env_.out << text_.LossLine(lost, total); }
  void Flush() override { env_.out.flush(); }

 private:
  Environment& env_;
  TraceText text_;
};

void SayLost(Environment& env, uint64_t lost, uint64_t total) {
  env.err << "utproxy: trace: " << lost << " decisions lost, " << total
          << " in all: they came faster than they were read" << std::endl;
}

class JsonOutput : public TraceOutput {
 public:
  explicit JsonOutput(Environment& env) : env_(env) {}
  bool Take(const Json& json) override {
    env_.out << JsonLine(json) << "\n";
    return env_.out.good();
  }
  void Lost(uint64_t lost, uint64_t total) override { SayLost(env_, lost, total); }
  void Flush() override { env_.out.flush(); }

 private:
  Environment& env_;
};

class CaptureOutput : public TraceOutput {
 public:
  CaptureOutput(std::string path, Environment& env)
      : path_(std::move(path)), env_(env), out_(path_ == "-" ? &env.out : &file_) {}

  absl::Status Open() {
    if (path_ != "-") file_.open(path_, std::ios::binary | std::ios::trunc);
    if (!out_->good()) return ErrnoStatus(errno, absl::StrCat("write ", path_));
    *out_ << PcapngWriter::Header(absl::StrCat("utproxy ", UTPROXY_VERSION)) << std::flush;
    return absl::OkStatus();
  }

  bool Take(const Json& json) override;
  void Lost(uint64_t lost, uint64_t total) override { SayLost(env_, lost, total); }
  void Flush() override { out_->flush(); }

  absl::Status Finish() override {
    out_->flush();
    if (!out_->good()) {
      return absl::DataLossError(absl::StrCat("write ", path_, ": not all of it was written"));
    }
    env_.err << "utproxy: trace: wrote " << written_ << " decisions to " << Printable(path_)
             << std::endl;
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  Environment& env_;
  std::ofstream file_;
  std::ostream* const out_;
  PcapngWriter writer_;
  uint64_t written_ = 0;
};

uint32_t NumberAt(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number_unsigned() ? it->get<uint32_t>() : 0;
}

// What replay puts back beside the decision. The length where the packet's own header does not tell
// it, and the packet itself where its bytes were cut before the ports, so that they alone would be
// decided as truncated.
std::string PrefixOf(const Json& json, absl::Span<const uint8_t> bytes, uint32_t true_length) {
  Json prefix = Json::object();
  for (const char* key : {"target", "queue", "id", "wait_ns", "decide_ns"}) {
    if (json.contains(key)) prefix[key] = json[key];
  }
  if (ClaimedLength(bytes) != true_length) prefix["length"] = true_length;
  Packet packet;
  ParsePacket(bytes, true_length, &packet);
  const bool decided = json.value("reason", "") != ReasonName(Reason::kHeaderTruncated);
  if (decided && packet.outcome == ParseOutcome::kHeaderTruncated) {
    prefix["packet"] = json["packet"];
  }
  return absl::StrCat("utproxy ", JsonLine(prefix));
}

uint32_t MarkOf(const Json& text) {
  uint32_t mark = 0;
  const bool good = text.is_string() && absl::SimpleHexAtoi(text.get<std::string>(), &mark);
  return good ? mark : 0;
}

bool CaptureOutput::Take(const Json& json) {
  Json decision = json;
  const Json raw = decision.value("raw", Json::object());
  // A comment is for reading; replay makes the steps again.
  decision.erase("raw");
  decision.erase("steps");
  const Json& packet = json["packet"];
  const std::string bytes = absl::HexStringToBytes(raw.value("bytes", ""));
  const uint32_t true_length = NumberAt(raw, "length");
  const absl::Span<const uint8_t> payload(reinterpret_cast<const uint8_t*>(bytes.data()),
                                          bytes.size());
  const std::string prefix = PrefixOf(json, payload, true_length);
  const std::vector<uint8_t> frame =
      WriteNflog({.family = static_cast<uint8_t>(packet["family"] == "ipv6" ? AF_INET6 : AF_INET),
                  .group = static_cast<uint16_t>(NumberAt(json, "queue")),
                  .mark = MarkOf(packet["mark"]),
                  .indev = NumberAt(raw, "iif"),
                  .arrived_ns = 0,
                  .sequence = std::nullopt,
                  .prefix = prefix,
                  .payload = payload});
  absl::Time time = absl::UnixEpoch();
  std::string error;
  (void)absl::ParseTime(absl::RFC3339_full, json.value("time", ""), &time, &error);
  *out_ << writer_.Packet({.time_ns = absl::ToUnixNanos(time),
                           .bytes = frame,
                           .true_length = static_cast<uint32_t>(frame.size()),
                           .interface = packet["iif"].get_ref<const std::string&>(),
                           .queue = static_cast<uint16_t>(NumberAt(json, "queue")),
                           .comment = JsonLine(decision)});
  ++written_;
  return out_->good();
}

}  // namespace

std::unique_ptr<TraceOutput> MakeTextOutput(Environment& env) {
  return std::make_unique<TextOutput>(env);
}

std::unique_ptr<TraceOutput> MakeJsonOutput(Environment& env) {
  return std::make_unique<JsonOutput>(env);
}

absl::StatusOr<std::unique_ptr<TraceOutput>> MakeCaptureOutput(const std::string& path,
                                                               Environment& env) {
  auto output = std::make_unique<CaptureOutput>(path, env);
  RETURN_IF_ERROR(output->Open());
  return std::unique_ptr<TraceOutput>(std::move(output));
}

}  // namespace utproxy::tools
