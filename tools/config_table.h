// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_CONFIG_TABLE_H_
#define UTPROXY_TOOLS_CONFIG_TABLE_H_

#include <absl/strings/string_view.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "options.h"
#include "target_options.h"

// The first half of reading a configuration file: TOML, and each value for itself.
namespace utproxy::tools {

struct Place {
  uint32_t line = 0;
  uint32_t column = 0;
};

// A [[target]] and where its parts stand. Not movable, as `table` points into `words`.
struct ParsedTarget {
  ParsedTarget();
  ParsedTarget(const ParsedTarget&) = delete;
  ParsedTarget& operator=(const ParsedTarget&) = delete;

  TargetOptions words;
  OptionTable table;
  bool named = false;
  Place header;
  std::map<std::string, Place> places;  // by option, "--on-port": its value's

  // Of the option, or of the target's header where the file does not have it.
  Place PlaceOf(const std::string& option) const;
};

// An error about a target, which names options as the command line does, with the file's names.
std::string InFileWords(absl::string_view message, const OptionTable& table);

// Whether it is TOML at all; then `*daemon` and `*targets` have what could be read, and `*mistakes`
// what could not. `install` as in ParseConfig.
bool ReadTables(absl::string_view text, bool install, DaemonWords* daemon,
                std::vector<std::unique_ptr<ParsedTarget>>* targets,
                std::vector<Mistake>* mistakes);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_CONFIG_TABLE_H_
