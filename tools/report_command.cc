// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/utsname.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <ostream>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/control_client.h"
#include "daemon/json.h"
#include "diagnose/anonymizer.h"
#include "doctor_source.h"
#include "doctor_text.h"
#include "printable.h"

namespace utproxy::tools {
namespace {

// Some 2 KB each.
constexpr uint32_t kLastDecisions = 1000;

struct File {
  std::string name;
  std::string text;
};

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

struct FreeArchive {
  void operator()(archive* a) const { (void)archive_write_free(a); }
};
struct FreeEntry {
  void operator()(archive_entry* e) const { archive_entry_free(e); }
};

absl::Status WriteTar(const std::string& path, const std::vector<File>& files) {
  const std::unique_ptr<archive, FreeArchive> tar(archive_write_new());
  const auto failed = [&] {
    return absl::InternalError(absl::StrCat("write ", path, ": ", archive_error_string(tar.get())));
  };
  // Not for others to read: it tells all about the host.
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("write ", path));
  if (archive_write_set_format_pax_restricted(tar.get()) != ARCHIVE_OK ||
      (absl::EndsWith(path, "gz") && archive_write_add_filter_gzip(tar.get()) != ARCHIVE_OK) ||
      archive_write_open_fd(tar.get(), fd.get()) != ARCHIVE_OK) {
    return failed();
  }
  for (const File& file : files) {
    const std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
    archive_entry_set_pathname(entry.get(), absl::StrCat("utproxy-report/", file.name).c_str());
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(file.text.size()));
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0600);
    archive_entry_set_mtime(entry.get(), absl::ToTimeT(absl::Now()), 0);
    if (archive_write_header(tar.get(), entry.get()) != ARCHIVE_OK ||
        archive_write_data(tar.get(), file.text.data(), file.text.size()) !=
            static_cast<la_ssize_t>(file.text.size())) {
      return failed();
    }
  }
  return archive_write_close(tar.get()) == ARCHIVE_OK ? absl::OkStatus() : failed();
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
    ASSIGN_OR_RETURN(std::vector<File> files, Collect());
    Anonymizer anonymizer;
    for (File& file : files) {
      if (anonymize_) file.text = anonymizer.Mask(file.text);
    }
    RETURN_IF_ERROR(WriteTar(path_, files));
    env.out << Printable(path_) << ": "
            << absl::StrJoin(files, ", ",
                             [](std::string* out, const File& f) { absl::StrAppend(out, f.name); })
            << "\n";
    return kExitOk;
  }

 private:
  absl::StatusOr<std::vector<File>> Collect() const {
    std::vector<File> files = {{"version", VersionText()}};
    ASSIGN_OR_RETURN(const SystemView view, source_.Load());
    const Findings findings = Diagnose(view);
    files.push_back({"doctor.txt", DoctorText(view, findings, 100, false)});
    files.push_back({"doctor.json", JsonLine(DoctorJson(findings)) + "\n"});
    std::string sockets;
    for (const SocketFacts& each : view.sockets) {
      std::optional<SocketOwner> owner;
      if (each.pid != 0) owner = SocketOwner{.pid = each.pid, .fd = each.fd, .comm = each.comm};
      absl::StrAppend(&sockets, JsonLine(ToJson(each.socket, SystemInterfaceName, owner)), "\n");
    }
    files.push_back({"sockets.json", sockets});
    files.push_back(
        {"ruleset", OutputOfAll({"nft -a -s list ruleset", "iptables-save", "ip6tables-save"})});
    files.push_back({"routing", OutputOfAll({"ip rule", "ip -6 rule", "ip route show table all",
                                             "ip -6 route show table all", "ip -d address"})});
    files.push_back({"queues", OutputOf("cat /proc/net/netfilter/nfnetlink_queue")});
    AddDaemon(&files);
    return files;
  }

  // What only a running utproxy knows; a report without one is a report, too.
  void AddDaemon(std::vector<File>* files) const {
    const std::string control = source_.ControlPath();
    files->push_back({"stats.json", AnswerOf(control, {{"command", "stats"}}, kBeginNs)});
    // Without the packets' bytes: no mask would find the addresses in them.
    files->push_back(
        {"decisions.json",
         AnswerOf(control,
                  {{"command", "trace"}, {"last", kLastDecisions}, {"steps", true}, {"raw", false}},
                  kLineNs)});
  }

  // The lines of the daemon's answer, or {"error": ...}.
  static std::string AnswerOf(const std::string& control, const Json& request, int64_t line_ns) {
    std::string text;
    const absl::Status status = AskDaemon(
        control, request, [&](const Json& json) { absl::StrAppend(&text, JsonLine(json), "\n"); },
        line_ns);
    return status.ok() ? text : JsonLine({{"error", status.message()}}) + "\n";
  }

  DoctorSource source_;
  std::string path_;
  bool anonymize_ = false;
};

}  // namespace

CommandEntry ReportEntry() {
  return {"report", "everything a bug report needs, in one tar",
          "Writes sockets, ruleset, rules and routes, doctor's findings, the running daemon's "
          "statistics and last decisions, and versions into one tar, which only its owner may "
          "read. Look at it before "
          "you pass it on; --anonymize masks addresses, but not names.",
          "utproxy report --anonymize /tmp/utproxy-report.tar.gz",
          [] { return std::unique_ptr<Command>(new ReportCommand); }};
}

}  // namespace utproxy::tools
