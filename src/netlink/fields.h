// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_FIELDS_H_
#define UTPROXY_NETLINK_FIELDS_H_

#include <absl/types/span.h>
#include <arpa/inet.h>

#include <cstdint>
#include <cstring>

namespace utproxy {

// A copy of the T at the front of `bytes`; false, and nothing written, where they are too few.
template <typename T>
bool ReadField(absl::Span<const uint8_t> bytes, T* out) {
  if (bytes.size() < sizeof(T)) return false;
  std::memcpy(out, bytes.data(), sizeof(T));
  return true;
}

// The same for a number in network byte order, as nfnetlink's attributes have it; *out in host
// byte order.
inline bool ReadBig32(absl::Span<const uint8_t> bytes, uint32_t* out) {
  uint32_t big = 0;
  if (!ReadField(bytes, &big)) return false;
  *out = ntohl(big);
  return true;
}

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_FIELDS_H_
