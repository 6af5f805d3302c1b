// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_FLIGHT_TAP_H_
#define UTPROXY_ENGINE_FLIGHT_TAP_H_

#include "queue/batch_observer.h"
#include "trace/flight_recorder.h"

namespace utproxy {

// Writes what a worker decides into its flight recorder.
class FlightTap : public BatchObserver {
 public:
  void Decided(const DecidedBatch& batch) override;

  // The number of the configuration by which the next batch has been decided. The worker's.
  void set_configuration(uint32_t number) { record_.configuration = number; }

  // Any thread may read.
  const FlightRecorder& recorder() const { return recorder_; }

 private:
  FlightRecorder recorder_;
  TraceRecord record_;  // scratch
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_FLIGHT_TAP_H_
