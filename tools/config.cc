// SPDX-License-Identifier: GPL-3.0-or-later
#include "config.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/fd.h"
#include "base/status.h"
#include "config_check.h"
#include "config_table.h"
#include "options.h"
#include "printable.h"

namespace utproxy::tools {
namespace {

constexpr size_t kMostMistakesTold = 100;

// Of a regular file only: others may never end, or be another one at the next reload.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat facts {};
  if (!fd.valid() || ::fstat(fd.get(), &facts) != 0) return ErrnoStatus(errno, Printable(path));
  if (!S_ISREG(facts.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(path), ": not a regular file"));
  }
  std::string text(kMaxConfigBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, Printable(path));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path), ": too large: more than ", kMaxConfigBytes, " bytes"));
  }
  text.resize(size);
  return text;
}

std::vector<std::string> MistakeLines(const std::string& path,
                                      const std::vector<Mistake>& mistakes) {
  std::vector<std::string> lines;
  for (const Mistake& mistake : mistakes) {
    if (lines.size() == kMostMistakesTold) {
      lines.push_back(absl::StrCat(Printable(path), ": and ", mistakes.size() - kMostMistakesTold,
                                   " mistakes more"));
      break;
    }
    lines.push_back(mistake.ToString(path));
  }
  return lines;
}

}  // namespace

std::string Mistake::ToString(absl::string_view file) const {
  if (line == 0) return absl::StrCat(Printable(file), ": ", text);
  return absl::StrCat(Printable(file), ":", line, ":", column, ": ", text);
}

Configuration ParseConfig(absl::string_view text, const std::string& file, bool install,
                          std::vector<Mistake>* mistakes) {
  Configuration configuration;
  std::vector<std::unique_ptr<ParsedTarget>> targets;
  if (ReadTables(text, install, &configuration.daemon, &targets, mistakes)) {
    CheckTargets(targets, mistakes);
  }
  std::stable_sort(mistakes->begin(), mistakes->end(), [](const Mistake& a, const Mistake& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  if (!mistakes->empty()) return configuration;
  for (const Mistake& warning : WarningsAbout(targets)) {
    configuration.warnings.push_back(warning.ToString(file));
  }
  for (auto& target : targets) {
    const Place cpu = target->PlaceOf("--cpu");
    configuration.cpus.push_back({cpu.line, cpu.column, ""});
    configuration.targets.push_back(std::move(target->words.target));
  }
  return configuration;
}

absl::StatusOr<Configuration> LoadConfig(const std::string& path, bool install) {
  const absl::StatusOr<std::string> text = ReadConfigFile(path);
  if (!text.ok()) return UsageError(text.status().message());
  std::vector<Mistake> mistakes;
  Configuration configuration = ParseConfig(*text, path, install, &mistakes);
  if (!mistakes.empty()) return UsageErrors(MistakeLines(path, mistakes));
  configuration.text = *text;
  return configuration;
}

absl::Status CheckCpus(const Configuration& configuration, const std::string& path,
                       const std::function<bool(int)>& can_run_on) {
  std::vector<Mistake> mistakes;
  for (size_t i = 0; i < configuration.targets.size(); ++i) {
    const std::optional<int> cpu = CpuOutOfReach(configuration.targets[i], can_run_on);
    if (!cpu) continue;
    mistakes.push_back(configuration.cpus[i]);
    mistakes.back().text = absl::StrCat("cpu ", *cpu, kNoSuchCpu);
  }
  if (mistakes.empty()) return absl::OkStatus();
  return UsageErrors(MistakeLines(path, mistakes));
}

absl::StatusOr<Target> TargetNamed(const Configuration& configuration, const std::string& name) {
  std::vector<std::string> names;
  for (const Target& target : configuration.targets) {
    if (target.name == name) return target;
    names.push_back(target.name);
  }
  if (name.empty() && names.size() == 1) return configuration.targets.front();
  const std::string list = absl::StrJoin(names, ", ");
  if (name.empty()) {
    return UsageError(absl::StrCat("--config: has several targets: choose by --target ", list));
  }
  return UsageError(
      absl::StrCat("--target ", Printable(name), ": not in the configuration, which has ", list));
}

}  // namespace utproxy::tools
