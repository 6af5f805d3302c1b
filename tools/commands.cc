// SPDX-License-Identifier: GPL-3.0-or-later
#include "commands.h"

#include <array>

namespace utproxy::tools {

absl::Span<const CommandEntry> Commands() {
  static const std::array kCommands = {RunEntry(),    ExplainEntry(), SocketsEntry(), StatsEntry(),
                                       TraceEntry(),  ReplayEntry(),  RulesetEntry(), BenchEntry(),
                                       DoctorEntry(), ReportEntry()};
  return kCommands;
}

}  // namespace utproxy::tools
