// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DOCS_MANUAL_H_
#define UTPROXY_TOOLS_DOCS_MANUAL_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <string>

namespace utproxy::tools {

// A manual page in scdoc's language. `page` is its source: that language, where a line "@...@"
// stands for what the tables of commands and options have:
//
//   @page 8 NAME SUMMARY@  the header, and the page's name and summary
//   @head COMMAND@     the same for the command's page, and synopsis, description, options
//   @tail COMMAND@     exit status, example, the pages beside it
//   @commands@         a row for each command
//   @keys daemon|target|match@  those words of a configuration file
//
// Fails on another such line, and on a command that is not there.
absl::StatusOr<std::string> ManualPage(absl::string_view page);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DOCS_MANUAL_H_
