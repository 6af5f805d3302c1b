// SPDX-License-Identifier: GPL-3.0-or-later
#include "config_table.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <toml++/toml.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/status.h"
#include "printable.h"
#include "values.h"

namespace utproxy::tools {
namespace {

constexpr size_t kMaxNameLength = 63;
constexpr size_t kMaxShown = 80;
constexpr char kMatch[] = "match";
constexpr char kTarget[] = "target";

Place PlaceAt(const toml::source_region& region) {
  return {region.begin.line, region.begin.column};
}

absl::string_view Text(const toml::key& key) { return {key.str().data(), key.str().size()}; }

// One line, not endless, that does no harm to a terminal.
std::string Shown(absl::string_view text) {
  std::string shown = Printable(text.substr(0, kMaxShown));
  return text.size() > kMaxShown ? shown + "..." : shown;
}

// How many letters must be put in, left out, replaced, or swapped with the next one.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> before, row(b.size() + 1), next(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    next[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      next[j + 1] = std::min({row[j] + (a[i] == b[j] ? 0 : 1), row[j + 1] + 1, next[j] + 1});
      const bool swapped = i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j];
      if (swapped) next[j + 1] = std::min(next[j + 1], before[j - 1] + 1);
    }
    before = std::exchange(row, next);
  }
  return row.back();
}

std::string Nearest(absl::string_view word, const std::vector<std::string>& known) {
  word = word.substr(0, kMaxShown);
  return *std::min_element(known.begin(), known.end(), [&](const auto& a, const auto& b) {
    return Distance(word, a) < Distance(word, b);
  });
}

// Letters, digits, and - _ . : a name stands in logs, JSON, metrics and the rules' comments.
absl::StatusOr<std::string> ParseName(absl::string_view text) {
  const bool fits = std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
  if (text.empty() || text.size() > kMaxNameLength || !fits) {
    return absl::InvalidArgumentError("name must be 1 to 63 letters, digits, -, _ and .");
  }
  return std::string(text);
}

// A value as the option's word on the command line would be; nullopt where it can't be one.
std::optional<std::string> WordOf(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return absl::StrCat(number->get());
  return std::nullopt;
}

const char* TypeOf(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a floating point number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

class Reader {
 public:
  Reader(bool install, DaemonWords* daemon, std::vector<std::unique_ptr<ParsedTarget>>* targets,
         std::vector<Mistake>* mistakes)
      : install_(install), daemon_(daemon), targets_(targets), mistakes_(mistakes) {
    AddDaemonWords(daemon_words_, daemon_);
  }

  void Read(const toml::table& root);

 private:
  void Fail(Place place, absl::string_view what, absl::string_view why) {
    mistakes_->push_back({place.line, place.column, absl::StrCat(Shown(what), ": ", why)});
  }
  void FailUnknown(const toml::key& key, const std::vector<std::string>& known);
  static const Option* Find(const OptionTable& words, absl::string_view key,
                            absl::string_view file_table);
  static bool MayStandOnTop(const Option& option);
  std::string Elsewhere(absl::string_view key) const;
  bool Apply(const Option& option, absl::string_view key, const toml::node& node);
  void ApplyWord(const Option& option, absl::string_view key, const toml::node& node);
  void ApplyToTarget(const Option& option, const toml::key& key, const toml::node& node,
                     ParsedTarget* target);
  void ReadDefaults(const toml::table& root);
  void ReadTargets(const toml::node& node);
  void ReadTarget(const toml::table& table);
  void ReadMatch(const toml::node& node, ParsedTarget* target);

  const bool install_;
  DaemonWords* const daemon_;
  std::vector<std::unique_ptr<ParsedTarget>>* const targets_;
  std::vector<Mistake>* const mistakes_;
  OptionTable daemon_words_;
  const ParsedTarget pattern_;  // for the words there are
  struct Default {
    const toml::key* key;
    const toml::node* node;
  };
  std::vector<Default> defaults_;
};

const Option* Reader::Find(const OptionTable& words, absl::string_view key,
                           absl::string_view file_table) {
  for (const Option& option : words.options()) {
    if (option.file_table == file_table && (option.Key() == key || option.file_name == key)) {
      return &option;
    }
  }
  return nullptr;
}

// What is another one in each target has no default.
bool Reader::MayStandOnTop(const Option& option) {
  return option.file_table.empty() && option.name != "--name" && option.name != "--queues" &&
         option.name != "--queue-num" && option.name != "--queue-balance";
}

// Where a key that does not belong here does belong, if anywhere. In TOML it is easy to have a key
// behind the header of a table that it does not belong to.
std::string Reader::Elsewhere(absl::string_view key) const {
  if (Find(daemon_words_, key, "") != nullptr) {
    return "belongs to the daemon: put it in front of the first [[target]]";
  }
  if (Find(pattern_.table, key, kMatch) != nullptr) return "belongs into match = {...}";
  if (key == kMatch || Find(pattern_.table, key, "") != nullptr) return "belongs into a [[target]]";
  return "";
}

void Reader::FailUnknown(const toml::key& key, const std::vector<std::string>& known) {
  const std::string elsewhere = Elsewhere(Text(key));
  Fail(PlaceAt(key.source()), Text(key),
       elsewhere.empty()
           ? absl::StrCat("unknown key: the nearest one is ", Nearest(Text(key), known))
           : elsewhere);
}

void Reader::ApplyWord(const Option& option, absl::string_view key, const toml::node& node) {
  const Place place = PlaceAt(node.source());
  const std::optional<std::string> word = WordOf(node);
  if (!word) {
    return Fail(place, key,
                absl::StrCat("must be ", option.placeholder, ", a string or an integer, and not ",
                             TypeOf(node)));
  }
  const absl::Status status = option.set(*word);
  if (status.ok()) return;
  Fail(place, absl::StrCat(key, " ", word->empty() ? "\"\"" : *word),
       InFileWords(status.message(), pattern_.table));
}

// Whether the option was given: false for `install = false`.
bool Reader::Apply(const Option& option, absl::string_view key, const toml::node& node) {
  if (option.placeholder.empty()) {
    const auto* flag = node.as_boolean();
    if (flag == nullptr) {
      Fail(PlaceAt(node.source()), key,
           absl::StrCat("must be true or false, and not ", TypeOf(node)));
      return false;
    }
    if (flag->get()) (void)option.set("");
    return flag->get();
  }
  const auto* array = node.as_array();
  if (array == nullptr) {
    ApplyWord(option, key, node);
    return true;
  }
  if (!option.repeatable) {
    Fail(PlaceAt(node.source()), key, "must be one value, and not an array");
    return true;
  }
  // No port is not the packet's own, and no interface not every one.
  if (array->empty()) {
    Fail(PlaceAt(node.source()), key, "must be at least one value, and not an empty array");
    return true;
  }
  for (const toml::node& element : *array) ApplyWord(option, key, element);
  return true;
}

void Reader::ApplyToTarget(const Option& option, const toml::key& key, const toml::node& node,
                           ParsedTarget* target) {
  if (target->places.contains(option.name)) {
    return Fail(PlaceAt(key.source()), Text(key), "is there under its other name already");
  }
  target->places[option.name] = PlaceAt(node.source());
  (void)Apply(option, Text(key), node);
}

void Reader::ReadMatch(const toml::node& node, ParsedTarget* target) {
  const toml::table* match = node.as_table();
  if (match == nullptr) {
    return Fail(PlaceAt(node.source()), kMatch,
                absl::StrCat("must be a table such as { proto = \"udp\", dport = 53 }, and not ",
                             TypeOf(node)));
  }
  for (const auto& [key, value] : *match) {
    if (const Option* option = Find(target->table, Text(key), kMatch)) {
      ApplyToTarget(*option, key, value, target);
      continue;
    }
    std::vector<std::string> known;
    for (const Option& o : target->table.options()) {
      if (o.file_table == kMatch) known.push_back(o.Key());
    }
    FailUnknown(key, known);
  }
}

void Reader::ReadTarget(const toml::table& table) {
  auto target = std::make_unique<ParsedTarget>();
  target->header = PlaceAt(table.source());
  for (const auto& [key, value] : table) {
    if (Text(key) == kMatch) {
      ReadMatch(value, target.get());
    } else if (const Option* option = Find(target->table, Text(key), "")) {
      ApplyToTarget(*option, key, value, target.get());
    } else {
      std::vector<std::string> known = {kMatch};
      for (const Option& o : target->table.options()) {
        if (o.file_table.empty()) known.push_back(o.FileName());
      }
      FailUnknown(key, known);
    }
  }
  for (const Default& d : defaults_) {
    const Option* option = Find(target->table, Text(*d.key), "");
    if (!target->places.contains(option->name)) {
      // What is wrong with it has been said.
      const size_t told = mistakes_->size();
      ApplyToTarget(*option, *d.key, *d.node, target.get());
      mistakes_->resize(told);
    }
  }
  if (install_ && !target->places.contains("--install")) target->words.target.install = true;
  targets_->push_back(std::move(target));
}

void Reader::ReadTargets(const toml::node& node) {
  const toml::array* array = node.as_array();
  if (array == nullptr) {
    return Fail(PlaceAt(node.source()), kTarget, "must be [[target]], with two brackets");
  }
  for (const toml::node& element : *array) {
    if (const toml::table* table = element.as_table()) {
      ReadTarget(*table);
    } else {
      Fail(PlaceAt(element.source()), kTarget,
           absl::StrCat("must be a table, and not ", TypeOf(element)));
    }
  }
}

void Reader::ReadDefaults(const toml::table& root) {
  ParsedTarget scratch;
  for (const auto& [key, value] : root) {
    if (Text(key) == kTarget) continue;
    if (const Option* option = Find(daemon_words_, Text(key), "")) {
      (void)Apply(*option, Text(key), value);
      continue;
    }
    const Option* option = Find(scratch.table, Text(key), "");
    if (option != nullptr && MayStandOnTop(*option)) {
      ApplyToTarget(*option, key, value, &scratch);
      defaults_.push_back({&key, &value});
      continue;
    }
    std::vector<std::string> known = {kTarget};
    for (const Option& o : daemon_words_.options()) known.push_back(o.Key());
    for (const Option& o : scratch.table.options()) {
      if (MayStandOnTop(o)) known.push_back(o.FileName());
    }
    FailUnknown(key, known);
  }
}

void Reader::Read(const toml::table& root) {
  ReadDefaults(root);
  const toml::node* targets = root.get(kTarget);
  if (targets != nullptr) ReadTargets(*targets);
  if (targets == nullptr || (targets_->empty() && mistakes_->empty())) {
    mistakes_->push_back({1, 1, "no [[target]]: nothing says what to do with packets"});
  }
}

}  // namespace

std::string InFileWords(absl::string_view message, const OptionTable& table) {
  std::vector<std::pair<std::string, std::string>> names;
  for (const Option& option : table.options()) {
    names.emplace_back(option.name, option.FileName());
  }
  return absl::StrReplaceAll(message, names);
}

ParsedTarget::ParsedTarget() {
  table.Value("--name", "NAME", "what stats, trace and metrics call it",
              [this](absl::string_view text) -> absl::Status {
                ASSIGN_OR_RETURN(words.target.name, ParseName(text));
                named = true;
                return absl::OkStatus();
              });
  words.AddFile(table);
}

Place ParsedTarget::PlaceOf(const std::string& option) const {
  const auto it = places.find(option);
  return it == places.end() ? header : it->second;
}

bool ReadTables(absl::string_view text, bool install, DaemonWords* daemon,
                std::vector<std::unique_ptr<ParsedTarget>>* targets,
                std::vector<Mistake>* mistakes) {
  try {
    const toml::table root = toml::parse(std::string_view(text.data(), text.size()));
    Reader(install, daemon, targets, mistakes).Read(root);
    return true;
  } catch (const toml::parse_error& error) {
    const Place place = PlaceAt(error.source());
    mistakes->push_back(
        {place.line, place.column,
         absl::StrCat("TOML: ", Shown({error.description().data(), error.description().size()}))});
    return false;
  }
}

}  // namespace utproxy::tools
