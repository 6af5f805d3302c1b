// SPDX-License-Identifier: GPL-3.0-or-later
#include "report_tar.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "base/fd.h"
#include "base/status.h"

namespace utproxy::tools {
namespace {

struct FreeArchive {
  void operator()(archive* a) const { (void)archive_write_free(a); }
};
struct FreeEntry {
  void operator()(archive_entry* e) const { archive_entry_free(e); }
};

absl::Status WriteTo(int fd, const std::string& path, const std::vector<ReportFile>& files) {
  const std::unique_ptr<archive, FreeArchive> tar(archive_write_new());
  const auto failed = [&] {
    return absl::InternalError(absl::StrCat("write ", path, ": ", archive_error_string(tar.get())));
  };
  if (archive_write_set_format_pax_restricted(tar.get()) != ARCHIVE_OK ||
      (absl::EndsWith(path, "gz") && archive_write_add_filter_gzip(tar.get()) != ARCHIVE_OK) ||
      archive_write_open_fd(tar.get(), fd) != ARCHIVE_OK) {
    return failed();
  }
  for (const ReportFile& file : files) {
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

}  // namespace

absl::Status WriteNewTar(const std::string& path, const std::vector<ReportFile>& files) {
  const UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    const int error = errno;
    const absl::Status status = ErrnoStatus(error, absl::StrCat("write ", path));
    if (error != EEXIST) return status;
    return WithRemedy(status, "A report is always a new file: name another one, or remove it.");
  }
  absl::Status status = WriteTo(fd.get(), path, files);
  // A half of a report would be taken for one.
  if (!status.ok()) (void)::unlink(path.c_str());
  return status;
}

}  // namespace utproxy::tools
