// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DOCS_COMPLETION_H_
#define UTPROXY_TOOLS_DOCS_COMPLETION_H_

#include <absl/strings/string_view.h>

#include <string>
#include <vector>

#include "commands.h"

namespace utproxy::tools {

// What a shell can offer for a value or an argument, as its placeholder tells.
struct Offer {
  enum class Kind { kNothing, kWords, kFiles, kInterfaces, kUsers };
  Kind kind = Kind::kNothing;
  std::vector<std::string> words;  // of kWords
};
Offer OfferFor(const Option& option);
Offer OfferFor(const Positional& argument);

// Shell scripts that complete the program's commands, options and values.
std::string BashCompletion();
std::string ZshCompletion();
std::string FishCompletion();

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DOCS_COMPLETION_H_
