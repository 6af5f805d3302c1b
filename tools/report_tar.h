// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_REPORT_TAR_H_
#define UTPROXY_TOOLS_REPORT_TAR_H_

#include <absl/status/status.h>

#include <string>
#include <vector>

namespace utproxy::tools {

struct ReportFile {
  std::string name;
  std::string text;
};

// Writes a tar, compressed where `path` ends in "gz", of the files in the folder "utproxy-report".
// It tells all about a host, and may be written by root in a folder of all: it is a file of its
// own, mode 0600, never one that is there already, nor one that a symbolic link leads to; an error
// then.
absl::Status WriteNewTar(const std::string& path, const std::vector<ReportFile>& files);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_REPORT_TAR_H_
