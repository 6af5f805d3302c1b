// SPDX-License-Identifier: GPL-3.0-or-later
/* Gives a packet of a flow with an entry to the entry's listener. Runs for every TCP segment
 * without a connection and every datagram without a connected socket in the network namespace,
 * thus a flow without an entry, or whose socket is gone, is left to the kernel's own lookup. */
// clang-format off
#include <linux/bpf.h>  // first: the helpers need its types
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
// clang-format on

#include "flow_layout.h"

#define AF_INET 2

/* Sizes are set by the loader. Entries of `flows` are allocated with the map: an update is a third
 * cheaper so, and cannot fail for want of memory. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, struct steer_flow);
  __type(value, struct steer_target);
} flows SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SOCKHASH);
  __uint(max_entries, 1);
  __type(key, __u64);
  __type(value, __u64);
} listeners SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, STEER_COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} counters SEC(".maps");

/* Whether the kernel has bpf_sk_lookup::ingress_ifindex; set by the loader. Where it is false the
 * verifier removes the code that reads it. */
const volatile __u8 knows_iif = 1;

/* Set by the loader before it writes the first entry, and the first for a destination: who needs
 * none does not wait for the memory that the searches would read. */
volatile __u8 has_flows, has_destinations;

static __always_inline void count(__u32 which) {
  __u64* value = bpf_map_lookup_elem(&counters, &which);
  if (value) ++*value;
}

/* 0.0.0.0 and :: are one address in the key; 0.0.0.0 arrives here as ::ffff:0.0.0.0. */
static __always_inline void fold_unspecified(__u32* a) {
  if (!a[0] && !a[1] && a[2] == bpf_htonl(0xffff) && !a[3]) a[2] = 0;
}

static __always_inline void read_flow(struct bpf_sk_lookup* ctx, struct steer_flow* flow) {
  /* Zeroes where it is IPv4. Not in an else-branch, as the compiler would then compute an address
   * in the context for the loads of both, which the verifier does not allow. */
  for (int i = 0; i < 4; ++i) {
    flow->local[i] = ctx->local_ip6[i];
    flow->remote[i] = ctx->remote_ip6[i];
  }
  if (ctx->family == AF_INET) {
    flow->local[2] = flow->remote[2] = bpf_htonl(0xffff);
    flow->local[3] = ctx->local_ip4;
    flow->remote[3] = ctx->remote_ip4;
  }
  fold_unspecified(flow->local);
  fold_unspecified(flow->remote);
  flow->local_port = (__u16)ctx->local_port;
  /* 32 bits wide before Linux 5.18, 16 since: a 32-bit load is right in both. */
  __u32 remote_port = *(volatile __u32*)&ctx->remote_port;
  flow->remote_port = bpf_ntohs((__u16)remote_port);
  flow->proto = (__u8)ctx->protocol;
  if (knows_iif) {
    __u32 iif = ctx->ingress_ifindex;
    flow->iif[0] = (__u8)iif;
    flow->iif[1] = (__u8)(iif >> 8);
    flow->iif[2] = (__u8)(iif >> 16);
  }
}

/* A socket leaves the map when it is closed, but, since about Linux 5.16, no longer when
 * shutdown(), SOCK_DESTROY or a UDP disconnect unhash it. bpf_sk_assign() would take it even so,
 * and the packet be lost in it. */
static __always_inline int receives(const struct bpf_sock* sk, __u8 proto) {
  return sk->src_port != 0 && (proto != IPPROTO_TCP || sk->state == BPF_TCP_LISTEN);
}

static __always_inline void forget_remote(struct steer_flow* flow) {
  for (int i = 0; i < 4; ++i) flow->remote[i] = STEER_ANY_REMOTE;
  flow->remote_port = 0;
}

SEC("sk_lookup")
int steer(struct bpf_sk_lookup* ctx) {
  if (!has_flows) {
    count(STEER_NO_ENTRY);
    return SK_PASS;
  }
  struct steer_flow flow = {};
  read_flow(ctx, &flow);
  int by_destination = 0;
  const struct steer_target* target = bpf_map_lookup_elem(&flows, &flow);
  if (!target && has_destinations) {
    forget_remote(&flow);
    target = bpf_map_lookup_elem(&flows, &flow);
    by_destination = 1;
  }
  if (!target) {
    count(STEER_NO_ENTRY);
    return SK_PASS;
  }
  __u64 cookie = target->cookie;
  struct bpf_sock* sk = bpf_map_lookup_elem(&listeners, &cookie);
  if (sk && !receives(sk, flow.proto)) {
    bpf_sk_release(sk);
    sk = 0;
  }
  if (!sk) {
    count(STEER_SOCKET_GONE);
    return SK_PASS;
  }
  /* Without BPF_SK_LOOKUP_F_NO_REUSEPORT: the listener's SO_REUSEPORT group still balances. */
  long refused = bpf_sk_assign(ctx, sk, 0);
  bpf_sk_release(sk);
  count(refused ? STEER_ASSIGN_REFUSED : STEER_STEERED);
  if (by_destination && !refused) count(STEER_BY_DESTINATION);
  return SK_PASS;
}

char _license[] SEC("license") = "GPL";
