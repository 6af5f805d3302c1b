// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_SOCKETS_TABLE_MEMORY_H_
#define UTPROXY_SOCKETS_TABLE_MEMORY_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "base/reservation.h"
#include "utproxy/socket_table_layout.h"

namespace utproxy {

// The socket table's memory: arrays of buckets in a series of sizes, each with a place of its own
// in the address space, of which one or two are in use; and followers. For the writer's thread;
// readers hold pointers into it, which stay good as long as this lives.
class TableMemory {
 public:
  // In fractions of an array's slots: a fuller one is to grow, a sparser one to shrink. After
  // growing to the next size the load is 0.58, after shrinking to an earlier one 0.6 at the most,
  // so neither follows soon on the other. At 0.72, one chain in ten has a follower.
  static constexpr bool TooFull(size_t sockets, size_t buckets) {
    return sockets * 2 > buckets * 23;
  }
  static constexpr bool TooSparse(size_t sockets, size_t buckets) {
    return sockets * 5 < buckets * 36;
  }

  // Fails where the address space cannot be reserved.
  static absl::StatusOr<std::unique_ptr<TableMemory>> Create(size_t max_sockets);

  // From the smallest, which Create has opened; each has a quarter more buckets than the one
  // before.
  const table_internal::Array& array(size_t i) const { return arrays_[i]; }
  size_t arrays() const { return arrays_.size(); }
  // The smallest array that `sockets` do not fill to more than 0.6.
  size_t FittingArray(size_t sockets) const;

  // Makes an array's memory usable: all zeroes where it is for the first time, else as it was left
  // or zero. RESOURCE_EXHAUSTED where the system refuses.
  absl::Status Open(size_t array) const;
  // Gives memory of an array back, that of the buckets from `first` up to `last`. It may read as
  // before or as zero afterwards.
  void GiveBack(size_t array, size_t first, size_t last) const;
  void GiveBackFollowers(size_t first, size_t last) const;

  // Enough for two arrays at once, whatever the hashes are, and numbered from 1.
  table_internal::Bucket* followers() const;
  table_internal::Entry* follower_entries() const;

 private:
  absl::Status Reserve(size_t max_sockets);

  Reservation heads_, entries_, followers_, follower_entries_;
  std::vector<table_internal::Array> arrays_;
};

}  // namespace utproxy

#endif  // UTPROXY_SOCKETS_TABLE_MEMORY_H_
