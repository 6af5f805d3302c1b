// SPDX-License-Identifier: GPL-3.0-or-later
#include "printable.h"

#include <absl/strings/str_format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace utproxy::tools {
namespace {

struct Range {
  uint32_t first, last;
};

// What is not seen by itself but changes what is, in ascending order. Of category Cf (Unicode 15)
// where nothing else is said; unassigned ones between them are taken along.
constexpr Range kHidden[] = {
    {0x0000, 0x001f},     // Cc
    {0x007f, 0x009f},     // Cc
    {0x00ad, 0x00ad},     // soft hyphen
    {0x0600, 0x0605},     // Arabic signs that enclose what follows
    {0x061c, 0x061c},     // Arabic letter mark
    {0x06dd, 0x06dd},     // Arabic
    {0x070f, 0x070f},     // Syriac
    {0x0890, 0x0891},     // Arabic
    {0x08e2, 0x08e2},     // Arabic
    {0x115f, 0x1160},     // Hangul fillers: letters that are blank
    {0x180b, 0x180f},     // Mongolian: selectors and vowel separator
    {0x200b, 0x200f},     // of no width, marks of direction
    {0x2028, 0x202e},     // Zl, Zp, embedding and overriding of direction
    {0x2060, 0x206f},     // word joiner, isolates of direction
    {0x3164, 0x3164},     // Hangul filler
    {0xfe00, 0xfe0f},     // selectors of variants
    {0xfeff, 0xfeff},     // byte order mark
    {0xffa0, 0xffa0},     // Hangul filler
    {0xfff0, 0xfffb},     // interlinear annotation
    {0xfffe, 0xffff},     // no characters
    {0x110bd, 0x110bd},   // Kaithi
    {0x110cd, 0x110cd},   // Kaithi
    {0x13430, 0x1343f},   // Egyptian hieroglyphs' format
    {0x1bca0, 0x1bca3},   // shorthand's format
    {0x1d173, 0x1d17a},   // musical
    {0xe0000, 0x10ffff},  // tags, selectors of variants, private use, no characters
};

bool IsHidden(uint32_t character) {
  const auto* range =
      std::lower_bound(std::begin(kHidden), std::end(kHidden), character,
                       [](const Range& r, uint32_t value) { return r.last < value; });
  return range != std::end(kHidden) && range->first <= character;
}

struct Character {
  uint32_t value;
  size_t bytes;  // 0: not UTF-8 (RFC 3629, 3)
};

Character FirstOf(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const size_t bytes = byte(0) < 0xc2 ? 0 : byte(0) < 0xe0 ? 2 : byte(0) < 0xf0 ? 3 : 4;
  if (bytes == 0 || byte(0) > 0xf4 || text.size() < bytes) return {0, 0};
  uint32_t value = byte(0) & (0x7fU >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0, 0};
    value = value << 6 | (byte(i) & 0x3fU);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < kLeast[bytes] || value > 0x10ffff || surrogate) return {0, 0};
  return {value, bytes};
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Character first = FirstOf(text);
    const size_t bytes = std::max<size_t>(first.bytes, 1);
    if (first.bytes != 0 && !IsHidden(first.value)) {
      out.append(text.data(), bytes);
    } else {
      for (const char c : text.substr(0, bytes)) {
        absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(c));
      }
    }
    text.remove_prefix(bytes);
  }
  return out;
}

Json PrintableStrings(Json json) {
  if (json.is_string()) return Printable(json.get_ref<const std::string&>());
  if (json.is_structured()) {
    for (Json& part : json) part = PrintableStrings(std::move(part));
  }
  return json;
}

}  // namespace utproxy::tools
