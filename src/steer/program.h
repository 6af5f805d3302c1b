// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_PROGRAM_H_
#define UTPROXY_STEER_PROGRAM_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>

#include "base/fd.h"

struct sk_lookup_bpf;

namespace utproxy {

// What of the program outlives a process where another has these descriptors: its place in the
// network namespace, and its maps.
struct SteeringParts {
  UniqueFd link, flows, listeners, counters;
};

// The sk_lookup program, its maps and its place in a network namespace. Nothing is pinned: all of
// it ends with this object, or with the process, but where another process has its parts.
class SkLookupProgram {
 public:
  struct Counters {
    uint64_t no_entry = 0;        // lookups for flows without an entry
    uint64_t steered = 0;         // packets given to their flow's listener
    uint64_t by_destination = 0;  // of these, by an entry for their destination
    uint64_t socket_gone = 0;     // an entry, but no socket that listens: left to the kernel
    uint64_t assign_refused = 0;  // the kernel would not assign the socket: left to the kernel
  };

  // Loads the program and attaches it to the calling thread's network namespace. Errors carry a
  // remedy: kUnimplemented where the kernel has no sk_lookup, kPermissionDenied without CAP_BPF and
  // CAP_NET_ADMIN.
  static absl::StatusOr<SkLookupProgram> Load(uint32_t max_flows, uint32_t max_listeners);
  // The same over the maps of a program that another process has attached, which does its work
  // until Replace(). FailedPrecondition where they are not what this program needs.
  static absl::StatusOr<SkLookupProgram> Inherit(uint32_t max_flows, uint32_t max_listeners,
                                                 SteeringParts parts);
  // Puts the program into the other one's place, between two packets.
  absl::Status Replace();

  // Flows are told apart by the interface they come in by: from Linux 5.17 on.
  bool knows_iif() const { return knows_iif_; }
  // Whether no other sk_lookup program is attached to the namespace now: another's choice could
  // come before this one's. False where that cannot be told.
  bool IsAlone() const;
  int flows_fd() const;
  int listeners_fd() const;
  int program_fd() const;
  int counters_fd() const;
  int link_fd() const { return link_.get(); }
  // The kernel's; 0 where it does not tell.
  uint32_t id() const;
  // Entries are looked for only from the first call on, those for destinations only from the first
  // with `destinations` on. To be called before any is written. Any thread.
  void LookForEntries(bool destinations) const;
  // Whether that has been called with `destinations`.
  bool looks_for_destinations() const;
  // Sums over all CPUs; zeroes where they cannot be read. May be called by any thread.
  Counters counters() const;

 private:
  struct DestroySkeleton {
    void operator()(sk_lookup_bpf* skeleton) const;
  };
  using Skeleton = std::unique_ptr<sk_lookup_bpf, DestroySkeleton>;

  SkLookupProgram(Skeleton skeleton, UniqueFd link, UniqueFd netns, bool knows_iif)
      : skeleton_(std::move(skeleton)),
        link_(std::move(link)),
        netns_(std::move(netns)),
        knows_iif_(knows_iif) {}
  static absl::StatusOr<Skeleton> LoadSkeleton(uint32_t max_flows, uint32_t max_listeners,
                                               bool knows_iif, const SteeringParts* parts);
  static absl::StatusOr<Skeleton> LoadSkeleton(uint32_t max_flows, uint32_t max_listeners,
                                               const SteeringParts* parts, bool* knows_iif);

  Skeleton skeleton_;
  UniqueFd link_;  // after the skeleton: detached before the maps go
  UniqueFd netns_;
  bool knows_iif_ = true;
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_PROGRAM_H_
