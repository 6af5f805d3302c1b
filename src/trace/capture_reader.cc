// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/capture_reader.h"

#include <absl/strings/str_cat.h>
#include <net/ethernet.h>
#include <pcap/pcap.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/clock.h"
#include "base/status.h"
#include "trace/nflog_codec.h"

namespace utproxy {
namespace {

using Bytes = absl::Span<const uint8_t>;

constexpr int kMaxVlanTags = 4;

uint32_t Big16(Bytes bytes, size_t at) { return uint32_t{bytes[at]} << 8 | bytes[at + 1]; }
uint32_t Big32(Bytes bytes, size_t at) { return Big16(bytes, at) << 16 | Big16(bytes, at + 2); }

bool IsIp(uint32_t ethertype) { return ethertype == ETHERTYPE_IP || ethertype == ETHERTYPE_IPV6; }

// How long the link header is; 0 where it is cut or what follows is not IP.
size_t EthernetHeader(Bytes bytes) {
  size_t at = 12;
  for (int tags = 0; tags <= kMaxVlanTags; ++tags, at += 4) {
    if (bytes.size() < at + 2) return 0;
    const uint32_t type = Big16(bytes, at);
    if (IsIp(type)) return at + 2;
    if (type != ETHERTYPE_VLAN && type != 0x88a8) return 0;
  }
  return 0;
}

size_t CookedHeader(Bytes bytes) { return bytes.size() >= 16 && IsIp(Big16(bytes, 14)) ? 16 : 0; }

size_t Cooked2Header(Bytes bytes, CapturedPacket* out) {
  if (bytes.size() < 20 || !IsIp(Big16(bytes, 0))) return 0;
  out->iif = Big32(bytes, 4);
  return 20;
}

// A host's own number for the address family in front, in its own byte order; the IP header's
// version tells what follows.
size_t LoopbackHeader(Bytes bytes) { return bytes.size() > 4 ? 4 : 0; }

bool StartsAsIp(Bytes bytes) {
  return !bytes.empty() && (bytes[0] >> 4 == 4 || bytes[0] >> 4 == 6);
}

// Sets bytes, true_length, and what else the link type tells. False: not IP, or cut.
bool Unwrap(int link, Bytes bytes, uint32_t wire_length, CapturedPacket* out) {
  size_t header = 0;
  switch (link) {
    case DLT_RAW:
    case DLT_IPV4:
    case DLT_IPV6:
      break;
    case DLT_EN10MB:
      if ((header = EthernetHeader(bytes)) == 0) return false;
      break;
    case DLT_LINUX_SLL:
      if ((header = CookedHeader(bytes)) == 0) return false;
      break;
    case DLT_LINUX_SLL2:
      if ((header = Cooked2Header(bytes, out)) == 0) return false;
      break;
    case DLT_NULL:
    case DLT_LOOP:
      if ((header = LoopbackHeader(bytes)) == 0) return false;
      break;
    case DLT_NFLOG: {
      NflogPacket packet;
      if (!ReadNflog(bytes, &packet)) return false;
      out->iif = packet.indev;
      out->mark = packet.mark;
      out->prefix = packet.prefix;
      out->bytes = packet.payload;
      out->true_length = ClaimedLength(packet.payload);
      return StartsAsIp(out->bytes);
    }
    default:
      return false;
  }
  out->bytes = bytes.subspan(header);
  out->true_length = wire_length > header ? static_cast<uint32_t>(wire_length - header) : 0;
  return StartsAsIp(out->bytes);
}

bool Known(int link) {
  constexpr int kLinks[] = {DLT_RAW,        DLT_IPV4, DLT_IPV6, DLT_EN10MB, DLT_LINUX_SLL,
                            DLT_LINUX_SLL2, DLT_NULL, DLT_LOOP, DLT_NFLOG};
  return std::find(std::begin(kLinks), std::end(kLinks), link) != std::end(kLinks);
}

}  // namespace

void CaptureReader::Close::operator()(pcap* handle) const { ::pcap_close(handle); }

absl::StatusOr<CaptureReader> CaptureReader::Open(std::FILE* file, const std::string& name) {
  char error[PCAP_ERRBUF_SIZE] = "";
  std::unique_ptr<pcap, Close> handle(
      ::pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, error));
  if (handle == nullptr) {
    std::fclose(file);
    return absl::InvalidArgumentError(absl::StrCat("read capture ", name, ": ", error));
  }
  const int link = ::pcap_datalink(handle.get());
  if (!Known(link)) {
    const char* known_as = ::pcap_datalink_val_to_name(link);
    return WithRemedy(
        absl::InvalidArgumentError(absl::StrCat("read capture ", name, ": link type ",
                                                known_as != nullptr ? known_as : "unknown", " (",
                                                link, ") holds no IP packets that replay knows")),
        "Capture on an interface ('tcpdump -i lan0 -w FILE'), or with 'utproxy trace --write'.");
  }
  return CaptureReader(std::move(handle), link, name);
}

absl::StatusOr<bool> CaptureReader::Next(CapturedPacket* packet) {
  while (true) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    const int result = ::pcap_next_ex(handle_.get(), &header, &data);
    if (result == PCAP_ERROR_BREAK) return false;
    if (result != 1) {
      return absl::DataLossError(
          absl::StrCat("read capture ", name_, ": ", ::pcap_geterr(handle_.get())));
    }
    *packet = CapturedPacket();
    // With nanoseconds asked for, tv_usec holds them.
    packet->time_ns = int64_t{header->ts.tv_sec} * kNsPerSec + header->ts.tv_usec;
    if (Unwrap(link_, {data, header->caplen}, header->len, packet)) return true;
    ++skipped_;
  }
}

}  // namespace utproxy
