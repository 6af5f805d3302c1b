// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_FUZZ_FAKE_NETLINK_H_
#define UTPROXY_TESTS_FUZZ_FAKE_NETLINK_H_

#include <absl/types/span.h>
#include <linux/netlink.h>

#include <cstdint>

// A kernel that answers netlink with a fuzzer's bytes. Programs with fake_netlink.cc are linked
// with --wrap for the system calls of src/netlink/socket.cc, which so run as they are.
namespace utproxy {

// From here on, each datagram that is received is the next of `input`: two bytes of length, low
// byte first, and so many bytes. Behind the last one the kernel is silent. `input` outlives the
// reading. A message's sequence number below 64 counts from that of the request last sent, so that
// 0 is an answer to it.
// Messages that are whole but that `keep` (may be null) does not want are not of any request.
void AnswerNetlinkWith(absl::Span<const uint8_t> input,
                       bool (*keep)(const nlmsghdr& message) = nullptr);

}  // namespace utproxy

#endif  // UTPROXY_TESTS_FUZZ_FAKE_NETLINK_H_
