// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_VERDICT_BUFFER_H_
#define UTPROXY_QUEUE_VERDICT_BUFFER_H_

#include <absl/types/span.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "queue/batch_decider.h"
#include "utproxy/decision.h"

namespace utproxy {

// Up to kBatch NFQNL_MSG_VERDICT messages, one behind the other as one send takes them. Separate
// verdicts rather than one NFQNL_MSG_VERDICT_BATCH: each packet has its own verdict and mark, and
// the kernel is faster at it. Allocates nothing. For one thread.
class VerdictBuffer {
 public:
  explicit VerdictBuffer(uint16_t queue);

  // A packet's verdict. A mark replaces the packet's whole mark (NFQA_MARK). `sequence` becomes the
  // message's nlmsg_seq, which an error of the kernel repeats. Host byte order. Only while !full().
  void Accept(uint32_t id, uint32_t sequence) { Add(id, sequence, kWithoutMark, kAcceptIndex); }
  void AcceptWithMark(uint32_t id, uint32_t sequence, uint32_t mark);
  void Drop(uint32_t id, uint32_t sequence) { Add(id, sequence, kWithoutMark, kDropIndex); }

  bool full() const { return count_ == kBatch; }
  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }
  absl::Span<const char> bytes() const { return {bytes_.data(), used_}; }
  void Clear() { used_ = count_ = 0; }

 private:
  static constexpr size_t kWithoutMark = 32;
  static constexpr size_t kWithMark = 40;
  static constexpr int kAcceptIndex = 0;
  static constexpr int kDropIndex = 1;

  using MessageBytes = std::array<char, kWithMark>;
  static void LayOut(uint16_t queue, int verdict, MessageBytes* message);
  char* Add(uint32_t id, uint32_t sequence, size_t size, int verdict);

  // A message with a mark for each verdict, laid out once; without the mark it is the same one,
  // shorter.
  alignas(4) std::array<MessageBytes, 2> templates_;
  alignas(4) std::array<char, kBatch * kWithMark> bytes_;
  size_t used_ = 0;
  size_t count_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_VERDICT_BUFFER_H_
