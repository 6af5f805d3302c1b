/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the sk_lookup program and its loader have to agree on. Read by C for BPF and by C++. */
#ifndef UTPROXY_STEER_FLOW_LAYOUT_H_
#define UTPROXY_STEER_FLOW_LAYOUT_H_

#include <linux/types.h>

#ifdef __cplusplus
#define UTPROXY_LAYOUT_ASSERT(condition) static_assert(condition)
#else
#define UTPROXY_LAYOUT_ASSERT(condition) _Static_assert(condition, #condition)
#endif

/* A flow as it comes in by one interface: a utproxy::FlowKey, with the interface's index in what
 * is zero there. Addresses in network byte order, IPv4 as ::ffff:a.b.c.d, the unspecified address
 * of both families all zeroes; ports in host byte order. No padding: the kernel hashes all 40
 * bytes.
 *
 * The key of an entry for a destination, for all flows to it that have no entry of their own, has
 * all bits of `remote` set, which is no packet's source, and port 0. */
struct steer_flow {
  __u32 local[4];
  __u32 remote[4];
  __u16 local_port;
  __u16 remote_port;
  __u8 proto;
  /* The low 24 bits of the ingress interface's index, lowest first. The same flow may come in by
   * another interface, where another listener is the right one. Zero before Linux 5.17, which does
   * not tell a program of it. */
  __u8 iif[3];
};
UTPROXY_LAYOUT_ASSERT(sizeof(struct steer_flow) == 40);
#define STEER_ANY_REMOTE 0xffffffffu

/* What is known of a flow: the listener's socket cookie, the key of the map `listeners`. */
struct steer_target {
  __u64 cookie;
};
UTPROXY_LAYOUT_ASSERT(sizeof(struct steer_target) == 8);

/* Indexes of the per-CPU map `counters`. */
enum steer_counter {
  STEER_NO_ENTRY,       /* the flow has no entry: the kernel's own lookup decides */
  STEER_STEERED,        /* the entry's socket was chosen */
  STEER_BY_DESTINATION, /* so were these, counted above too, by an entry for their destination */
  STEER_SOCKET_GONE,    /* an entry, but its socket is closed or listens no more */
  STEER_ASSIGN_REFUSED, /* bpf_sk_assign() would not have the socket */
  STEER_COUNTERS
};

#endif /* UTPROXY_STEER_FLOW_LAYOUT_H_ */
