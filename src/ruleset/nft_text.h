// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_NFT_TEXT_H_
#define UTPROXY_RULESET_NFT_TEXT_H_

#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <string>

#include "ruleset/plan.h"

namespace utproxy {

// "10.0.0.0/8", "10.0.0.1" or "10.0.0.1-10.0.0.9".
std::string RangeToString(const AddressRange& range, Family family);

// One rule as a line of nft's language, without a line end.
std::string RuleToNft(const Rule& rule);

// The table as `nft -f` reads it, and in the same transaction in place of an earlier one.
// `table_comment` without quotes.
std::string TableToNft(absl::Span<const Chain> chains, absl::string_view table_comment);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_NFT_TEXT_H_
