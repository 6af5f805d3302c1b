// SPDX-License-Identifier: GPL-3.0-or-later
/* Puts the listener (TCP) or unconnected socket (UDP) with one cookie into the map that the
 * sk_lookup program reads, whichever process holds it. User space sets `wanted`, reads an iterator
 * of the network namespace's sockets once, and finds the answer in `result`. */
// clang-format off
#include <linux/bpf.h>  // first: the helpers need its types
#include <bpf/bpf_helpers.h>
// clang-format on

#define TCP_LISTEN 10

/* Of the kernel's structures just what is read; where it stands there is found at load time. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct cookie {
  long long counter;
};
struct sock_common {
  unsigned char skc_state;
  struct cookie skc_cookie;
};
struct sock {
  struct sock_common __sk_common;
};
struct inet_sock {
  struct sock sk;
};
struct udp_sock {
  struct inet_sock inet;
};
struct bpf_iter__tcp {
  struct sock_common* sk_common;
};
struct bpf_iter__udp {
  struct udp_sock* udp_sk;
};
#pragma clang attribute pop

/* Sizes are set by the loader, which puts the sk_lookup program's map in its place. */
struct {
  __uint(type, BPF_MAP_TYPE_SOCKHASH);
  __uint(max_entries, 1);
  __type(key, __u64);
  __type(value, __u64);
} listeners SEC(".maps");

__u64 wanted = 0; /* the cookie of the socket to be found */
long result = 1;  /* 0: it is in the map; negative: -errno why not; 1: not found */

/* What a program returns to go on with the next socket, and to end the walk (the reader is told to
 * try again). */
enum { GO_ON = 0, END = 1 };

/* Before Linux 6.4 the map's function returns an int, of which the verifier's direct call leaves
 * the upper half of the register as it is: as a long, an error would be a large number. */
static __always_inline int put(const __u64* cookie, void* sk) {
  return (int)bpf_map_update_elem(&listeners, cookie, sk, BPF_ANY);
}

SEC("iter/tcp")
int find_tcp(struct bpf_iter__tcp* ctx) {
  struct sock_common* sk = ctx->sk_common;
  if (!sk) return GO_ON;
  if (sk->skc_state != TCP_LISTEN) return END; /* listeners come first */
  __u64 cookie = sk->skc_cookie.counter;
  if (cookie != wanted) return GO_ON;
  result = put(&cookie, sk);
  return END;
}

SEC("iter/udp")
int find_udp(struct bpf_iter__udp* ctx) {
  struct udp_sock* sk = ctx->udp_sk;
  if (!sk) return GO_ON;
  __u64 cookie = sk->inet.sk.__sk_common.skc_cookie.counter;
  if (cookie != wanted) return GO_ON;
  result = put(&cookie, sk);
  return END;
}

char _license[] SEC("license") = "GPL";
