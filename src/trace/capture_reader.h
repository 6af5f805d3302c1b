// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_CAPTURE_READER_H_
#define UTPROXY_TRACE_CAPTURE_READER_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

struct pcap;

namespace utproxy {

// One packet of a capture, from its IP header on. Views are valid until the next one is read.
struct CapturedPacket {
  int64_t time_ns = 0;  // CLOCK_REALTIME
  absl::Span<const uint8_t> bytes;
  uint32_t true_length = 0;  // from the IP header, on the wire
  uint32_t iif = 0;          // where the capture tells (cooked v2, NFLOG); else 0
  uint32_t mark = 0;         // where it tells (NFLOG); else 0
  absl::string_view prefix;  // NFLOG's
};

// Reads pcap and pcapng files through libpcap: Ethernet with VLAN tags, raw IP, Linux cooked
// (both), BSD loopback, NFLOG. For one thread.
class CaptureReader {
 public:
  // Errors name `name`, which is not opened: `file` is, and is closed in the end.
  static absl::StatusOr<CaptureReader> Open(std::FILE* file, const std::string& name);

  // False at the end. A packet that is not IP, or whose link header is cut, is counted as skipped
  // and passed over. An error where the file is malformed; what was read before it was right.
  absl::StatusOr<bool> Next(CapturedPacket* packet);

  uint64_t skipped() const { return skipped_; }

 private:
  struct Close {
    void operator()(pcap* handle) const;
  };
  CaptureReader(std::unique_ptr<pcap, Close> handle, int link, std::string name)
      : handle_(std::move(handle)), link_(link), name_(std::move(name)) {}

  std::unique_ptr<pcap, Close> handle_;
  int link_;
  std::string name_;
  uint64_t skipped_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_TRACE_CAPTURE_READER_H_
