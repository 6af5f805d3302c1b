// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_SWITCHING_DECIDER_H_
#define UTPROXY_DAEMON_SWITCHING_DECIDER_H_

#include <absl/types/span.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "queue/batch_decider.h"
#include "queue/verdict_buffer.h"

namespace utproxy {

// One way of deciding a queue's packets. Its decider is for the worker's thread only; where the
// last one that holds it is another thread, the worker has done with it.
struct DeciderVersion {
  uint32_t number = 0;  // of the configuration it is from
  std::unique_ptr<BatchDecider> decider;
};

// Lets a queue's worker go over from one decider to another between two batches, while packets come
// that were queued for the one and for the other. Each packet is decided by one of them.
//
// Begin, End and Undo are for one controlling thread; they take effect with the worker's next batch
// and wait for nobody. The rest is the worker's.
class SwitchingDecider : public BatchDecider {
 public:
  // Whether a packet is for the new version; where it is empty, all are.
  using ForNew = std::function<bool(const Packet&)>;

  explicit SwitchingDecider(std::shared_ptr<DeciderVersion> first) : shared_{.now = first} {
    mine_ = shared_;
  }

  // From now on `next` decides, but packets of which `for_new` is false, which the version before
  // goes on with. Not between Begin and End or Undo.
  void Begin(std::shared_ptr<DeciderVersion> next, ForNew for_new);
  // The version before is not needed any more.
  void End();
  // As before Begin.
  void Undo();

  void DecideBatch(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions) override;
  void SetCrowded(bool crowded) override;

  // The number of the version that decided the i-th packet of the last batch. The worker's.
  uint32_t version_of(size_t i) const { return numbers_[i]; }

 private:
  struct State {
    std::shared_ptr<DeciderVersion> now;
    std::shared_ptr<DeciderVersion> before = nullptr;
    ForNew for_new = nullptr;
  };
  void Adopt();
  void DecideSome(DeciderVersion& version, const std::vector<size_t>& which,
                  absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);

  std::mutex mutex_;
  State shared_;                      // under mutex_
  std::atomic<uint32_t> changes_{0};  // of shared_, so that a batch takes no lock

  // The worker's.
  State mine_;
  uint32_t seen_ = 0;
  bool crowded_ = false;
  std::array<uint32_t, kBatch> numbers_{};
  std::vector<size_t> for_before_, for_now_;  // positions in the batch
  std::vector<QueuedPacket> some_;
  std::vector<Decision> decided_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_SWITCHING_DECIDER_H_
