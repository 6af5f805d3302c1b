// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/target_samples.h"

namespace utproxy {
namespace {

constexpr size_t kMaxIntervals = 8;  // of a target, each tried

// Ports that stand for all of the target's; nullopt: any, also where they would be too many.
std::vector<std::optional<uint16_t>> PortSamples(const ProxyTarget& target) {
  if (target.dports.empty() || target.dports.size() > kMaxIntervals) return {std::nullopt};
  std::vector<std::optional<uint16_t>> ports;
  for (const NumberRange& range : target.dports) {
    for (const uint64_t port : {range.first, (range.first + range.last) / 2, range.last}) {
      ports.push_back(static_cast<uint16_t>(port));
    }
  }
  return ports;
}

std::vector<std::optional<Address>> AddressSamples(const std::vector<AddressInterval>& intervals,
                                                   Family family) {
  std::vector<std::optional<Address>> addresses;
  for (const AddressInterval& interval : intervals) {
    if (interval.last.IsV4Mapped() != (family == Family::kIpv4)) continue;
    addresses.push_back(interval.first);
    if (interval.last != interval.first) addresses.push_back(interval.last);
  }
  if (addresses.empty() || addresses.size() > kMaxIntervals) return {std::nullopt};
  return addresses;
}

// Senders as the rules tell, else those that the user told.
std::vector<std::optional<Address>> SenderSamples(const ProxyTarget& target, Family family) {
  std::vector<AddressInterval> senders = target.srcs;
  for (const Cidr& cidr : target.sources) {
    if (target.srcs.empty()) senders.push_back({cidr.address, cidr.address});
  }
  return AddressSamples(senders, family);
}

}  // namespace

void ForEachSample(const ProxyTarget& target, Family family, const std::string& iif,
                   absl::FunctionRef<bool(const PacketPattern&)> sample) {
  for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
    if (!target.Covers(proto)) continue;
    for (const auto& port : PortSamples(target)) {
      for (const auto& dst : AddressSamples(target.dsts, family)) {
        for (const auto& src : SenderSamples(target, family)) {
          const bool more = sample({.family = family,
                                    .iif = iif,
                                    .proto = proto,
                                    .src = src,
                                    .dst = dst,
                                    .dport = port,
                                    .mark = 0,
                                    .dst_type = std::nullopt,
                                    .ct_state = kCtNew});
          if (!more) return;
        }
      }
    }
  }
}

}  // namespace utproxy
