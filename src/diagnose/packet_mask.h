// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_PACKET_MASK_H_
#define UTPROXY_DIAGNOSE_PACKET_MASK_H_

#include <cstdint>
#include <vector>

#include "diagnose/anonymizer.h"

namespace utproxy {

// Masks a packet, from its IP header on, of which `bytes` are the first and that has `true_length`:
// what ParsePacket() then reads is the same but for the addresses, which are `anonymizer`'s. Cuts
// off all that it does not read, a TCP or UDP header's data above all, and makes zero of checksums,
// which tell of addresses, of IPv4 options and of what IPv6 extension headers hold.
void MaskPacket(uint32_t true_length, Anonymizer* anonymizer, std::vector<uint8_t>* bytes);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_PACKET_MASK_H_
