// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace_output.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/time/time.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <ostream>

#include "base/status.h"
#include "decision_capture.h"
#include "printable.h"
#include "trace_text.h"

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
    *out_ << capture_.Header() << std::flush;
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
  DecisionCapture capture_;
  uint64_t written_ = 0;
};

bool CaptureOutput::Take(const Json& json) {
  *out_ << capture_.Packet(json);
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
