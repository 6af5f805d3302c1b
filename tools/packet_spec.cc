// SPDX-License-Identifier: GPL-3.0-or-later
#include "packet_spec.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <net/if.h>

#include <vector>

#include "base/status.h"
#include "values.h"

namespace utproxy::tools {
namespace {

absl::StatusOr<uint8_t> ParseFlags(absl::string_view letters) {
  constexpr absl::string_view kLetters = "FSRPAU";  // in the order of the bits, FIN the lowest
  uint8_t flags = 0;
  for (const char c : letters) {
    const size_t bit = kLetters.find(c);
    if (bit == absl::string_view::npos) {
      return absl::InvalidArgumentError("flags must be letters of FSRPAU");
    }
    flags = static_cast<uint8_t>(flags | 1u << bit);
  }
  return flags;
}

}  // namespace

void PacketSpec::AddWords(OptionTable& table, bool optional) {
  table.Argument({.placeholder = "PROTO",
                  .help = "tcp or udp",
                  .required = !optional,
                  .set = [this](absl::string_view text) -> absl::Status {
                    given_ = true;
                    ASSIGN_OR_RETURN(proto_, ParseProto(text));
                    return absl::OkStatus();
                  }});
  table.Argument({.placeholder = "SRC",
                  .help = "the sender, such as 192.0.2.1:40000 or [2001:db8::1]:40000",
                  .required = !optional,
                  .set = [this](absl::string_view text) -> absl::Status {
                    ASSIGN_OR_RETURN(src_, ParseAddressPort(text));
                    return absl::OkStatus();
                  }});
  table.Argument({.placeholder = "DST",
                  .help = "where the packet goes, in the same form",
                  .required = !optional,
                  .set = [this](absl::string_view text) -> absl::Status {
                    ASSIGN_OR_RETURN(dst_, ParseAddressPort(text));
                    return absl::OkStatus();
                  }});
  table.Section("Packet");
  table.Value("--iif", "NAME", "the interface it comes in by",
              [this](absl::string_view text) -> absl::Status {
                given_ = true;
                ASSIGN_OR_RETURN(iif_, index_(text));
                return absl::OkStatus();
              });
  table.Value("--flags", "LETTERS", "TCP flags, letters of FSRPAU; default S",
              [this](absl::string_view text) { return SetFlags(text); });
  table.Value("--mark", "VALUE", "the mark it comes with; default 0",
              [this](absl::string_view text) -> absl::Status {
                given_ = true;
                ASSIGN_OR_RETURN(mark_, ParseMark(text));
                return absl::OkStatus();
              });
}

absl::Status PacketSpec::SetFlags(absl::string_view letters) {
  given_ = true;
  ASSIGN_OR_RETURN(flags_, ParseFlags(letters));
  return absl::OkStatus();
}

absl::StatusOr<Packet> PacketSpec::Finish() const {
  if (!proto_ || !src_ || !dst_) {
    return UsageError(absl::StrCat(!proto_ ? "PROTO" : !src_ ? "SRC" : "DST", ": missing"));
  }
  if (src_->family != dst_->family) {
    return UsageError(absl::StrCat(EndpointToString(dst_->address, dst_->port, dst_->family),
                                   ": not of the family of ",
                                   EndpointToString(src_->address, src_->port, src_->family)));
  }
  if (*proto_ == Proto::kUdp && flags_ && *flags_ != 0) {
    return UsageError("--flags: udp has none");
  }
  Packet packet;
  packet.src = src_->address;
  packet.dst = dst_->address;
  packet.sport = src_->port;
  packet.dport = dst_->port;
  packet.family = src_->family;
  packet.protocol = static_cast<uint8_t>(*proto_);
  packet.tcp_flags = *proto_ == Proto::kTcp ? flags_.value_or(kTcpSyn) : uint8_t{0};
  packet.iif = iif_;
  packet.mark = mark_;
  return packet;
}

absl::StatusOr<Packet> ParsePacketLine(absl::string_view line, const InterfaceIndexes& index) {
  PacketSpec spec(index);
  OptionTable table;
  spec.AddWords(table);
  const std::vector<std::string> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
  RETURN_IF_ERROR(table.Parse(words));
  return spec.Finish();
}

absl::StatusOr<uint32_t> SystemInterfaceIndex(absl::string_view name) {
  ASSIGN_OR_RETURN(const std::string checked, ParseInterfaceName(name));
  const unsigned index = ::if_nametoindex(checked.c_str());
  if (index == 0) return absl::InvalidArgumentError("no interface of this name");
  return index;
}

}  // namespace utproxy::tools
