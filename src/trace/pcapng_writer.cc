// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/pcapng_writer.h"

#include <algorithm>
#include <cstring>

namespace utproxy {
namespace {

// Block types and option codes of the draft, in the order of its chapters.
constexpr uint32_t kSectionHeader = 0x0a0d0d0a;
constexpr uint32_t kByteOrderMagic = 0x1a2b3c4d;
constexpr uint32_t kInterfaceDescription = 1;
constexpr uint32_t kEnhancedPacket = 6;
constexpr uint16_t kEndOfOptions = 0, kComment = 1, kUserApplication = 4;
constexpr uint16_t kInterfaceName = 2, kTimestampResolution = 9;
constexpr uint16_t kPacketFlags = 2, kPacketQueue = 6;
constexpr uint32_t kInbound = 1;
constexpr uint16_t kLinktypeNflog = 239;
constexpr uint32_t kSnapLength = 65535;

// A file is in the byte order of the host that writes it; readers go by the magic.
template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

void Pad(std::string* out) { out->resize((out->size() + 3) & ~size_t{3}, '\0'); }

void PutOption(uint16_t code, absl::string_view value, std::string* out) {
  value = value.substr(0, PcapngWriter::kMaxComment);
  Put(code, out);
  Put(static_cast<uint16_t>(value.size()), out);
  out->append(value.data(), value.size());
  Pad(out);
}

template <typename T>
void PutNumber(uint16_t code, T value, std::string* out) {
  PutOption(code, {reinterpret_cast<const char*>(&value), sizeof value}, out);
}

// `body` between its type and lengths.
std::string Block(uint32_t type, const std::string& body) {
  std::string out;
  const auto length = static_cast<uint32_t>(body.size() + 12);
  Put(type, &out);
  Put(length, &out);
  out += body;
  Put(length, &out);
  return out;
}

}  // namespace

std::string PcapngWriter::Header(absl::string_view program) {
  std::string body;
  Put(kByteOrderMagic, &body);
  Put(uint16_t{1}, &body);
  Put(uint16_t{0}, &body);
  Put(int64_t{-1}, &body);  // the section's length: not known yet
  PutOption(kUserApplication, program, &body);
  PutOption(kEndOfOptions, "", &body);
  std::string out = Block(kSectionHeader, body);
  // libpcap refuses a file without an interface, as one in which nothing was decided yet would be.
  InterfaceNumber("", &out);
  return out;
}

uint32_t PcapngWriter::InterfaceNumber(absl::string_view name, std::string* out) {
  const auto [it, added] =
      interfaces_.try_emplace(std::string(name), static_cast<uint32_t>(interfaces_.size()));
  if (!added) return it->second;
  std::string body;
  Put(kLinktypeNflog, &body);
  Put(uint16_t{0}, &body);
  Put(kSnapLength, &body);  // the same for all, or libpcap refuses the file
  if (!name.empty()) PutOption(kInterfaceName, name, &body);
  PutNumber(kTimestampResolution, uint8_t{9}, &body);
  PutOption(kEndOfOptions, "", &body);
  *out += Block(kInterfaceDescription, body);
  return it->second;
}

std::string PcapngWriter::Packet(const PacketBlock& packet) {
  std::string out, body;
  const absl::Span<const uint8_t> bytes = packet.bytes.subspan(0, kSnapLength);
  Put(InterfaceNumber(packet.interface, &out), &body);
  const auto time = static_cast<uint64_t>(std::max<int64_t>(packet.time_ns, 0));
  Put(static_cast<uint32_t>(time >> 32), &body);
  Put(static_cast<uint32_t>(time), &body);
  Put(static_cast<uint32_t>(bytes.size()), &body);
  Put(std::max(packet.true_length, static_cast<uint32_t>(bytes.size())), &body);
  body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Pad(&body);
  if (!packet.comment.empty()) PutOption(kComment, packet.comment, &body);
  PutNumber(kPacketFlags, kInbound, &body);
  PutNumber(kPacketQueue, uint32_t{packet.queue}, &body);
  PutOption(kEndOfOptions, "", &body);
  return out + Block(kEnhancedPacket, body);
}

}  // namespace utproxy
