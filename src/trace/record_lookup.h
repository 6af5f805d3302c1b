// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_RECORD_LOOKUP_H_
#define UTPROXY_TRACE_RECORD_LOOKUP_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "decide/listener.h"
#include "trace/port_lists.h"
#include "trace/record.h"
#include "utproxy/decide.h"

namespace utproxy {

// Lets Decide() run once more over what a record says was found, so that its recorder tells the
// steps: the same procedure, and by the record's own sockets the same decision.
//
// `around`, which may be null, knows the sockets of about that time: who else was considered, and
// sockets that a decision passes over and no record keeps. What it says never changes the
// decision. For one record; refers to both arguments.
class RecordLookup {
 public:
  RecordLookup(const TraceRecord& record, PortLists* around) : record_(record), around_(around) {}

  std::optional<Socket> TcpEstablished(const Packet& packet);
  std::optional<Socket> TcpListener(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family);
  const std::vector<Candidate>& candidates() const { return candidates_; }

 private:
  // What the record says was found by the packet's own addresses, or at laddr:lport.
  std::optional<Socket> Own() const;
  std::optional<Socket> Target() const;

  const TraceRecord& record_;
  PortLists* const around_;
  std::vector<Candidate> candidates_;
};
static_assert(SocketLookup<RecordLookup>);

}  // namespace utproxy

#endif  // UTPROXY_TRACE_RECORD_LOOKUP_H_
