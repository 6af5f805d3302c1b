// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_ATTRIBUTES_H_
#define UTPROXY_NETLINK_ATTRIBUTES_H_

#include <libmnl/libmnl.h>

#include <cstddef>

namespace utproxy {

// Calls fn(const nlattr&) for each whole attribute behind the message's family header of
// `header_bytes`. One that reaches beyond the message ends the walk. libmnl's macro for this does
// not compile as C++.
template <typename Fn>
void ForEachAttribute(const nlmsghdr& message, size_t header_bytes, Fn fn) {
  const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(&message));
  const auto* attr =
      static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(&message, header_bytes));
  while (mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char*>(attr)))) {
    fn(*attr);
    attr = mnl_attr_next(attr);
  }
}

// The same for the attributes nested in another.
template <typename Fn>
void ForEachNested(const nlattr& nest, Fn fn) {
  const auto* begin = static_cast<const char*>(mnl_attr_get_payload(&nest));
  const char* end = begin + mnl_attr_get_payload_len(&nest);
  const auto* attr = reinterpret_cast<const nlattr*>(begin);
  while (mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char*>(attr)))) {
    fn(*attr);
    attr = mnl_attr_next(attr);
  }
}

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_ATTRIBUTES_H_
