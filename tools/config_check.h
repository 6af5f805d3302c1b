// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_CONFIG_CHECK_H_
#define UTPROXY_TOOLS_CONFIG_CHECK_H_

#include <absl/types/span.h>

#include <memory>
#include <vector>

#include "config_table.h"

// The second half of reading a configuration file: what only is right or wrong with several values
// together.
namespace utproxy::tools {

// Completes the targets, each for itself and beside the others, and appends what is wrong.
void CheckTargets(absl::Span<const std::unique_ptr<ParsedTarget>> targets,
                  std::vector<Mistake>* mistakes);

// What is right, but does not do what one might think. Of targets without mistakes.
std::vector<Mistake> WarningsAbout(absl::Span<const std::unique_ptr<ParsedTarget>> targets);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_CONFIG_CHECK_H_
