// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_COMMANDS_H_
#define UTPROXY_TOOLS_COMMANDS_H_

#include <absl/types/span.h>

#include "command.h"

namespace utproxy::tools {

// Every command of the program, in the order of `utproxy --help`. A command is one file
// (ruleset_command.cc is a small one to start from) and its line in commands.cc.
absl::Span<const CommandEntry> Commands();

// Each in the file of its name.
CommandEntry RunEntry();
CommandEntry ExplainEntry();
CommandEntry SocketsEntry();
CommandEntry StatsEntry();
CommandEntry TraceEntry();
CommandEntry ReplayEntry();
CommandEntry RulesetEntry();
CommandEntry BenchEntry();
CommandEntry DoctorEntry();
CommandEntry ReportEntry();

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_COMMANDS_H_
