// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_DRIVER_H_
#define UTPROXY_TESTS_CHURN_DRIVER_H_

#include <csignal>
#include <cstdint>
#include <memory>
#include <vector>

#include "churn/judge.h"
#include "churn/place.h"
#include "churn/wire.h"

namespace utproxy::churn {

struct DriverOptions {
  double seconds = 15;
  int changes_per_second = 2500;
  int packets_per_second = 3500;
  int udp_places = 24;
  int tcp_places = 24;
  int connection_places = 4;
  uint16_t first_port = 20000;
  int late_ms = 0;  // how much too late a decision may be, that is, for which earlier state
  double self_test = 0;
  bool progress = false;
};

// Changes sockets, sends packets and judges them, all in the calling thread, which is in the
// router's network namespace. What keeps it from its rates (a busy machine) makes it slower, not
// wrong: it waits for verdicts when many are missing.
class Driver {
 public:
  // Ports from first_port on that packets are sent to.
  static constexpr uint16_t kPorts = 1000;

  // `client`: the clients' network namespace.
  Driver(const DriverOptions& options, const Addresses& addresses, UniqueFd client);

  // Returns after the time, or after `*stop`.
  void Run(const volatile std::sig_atomic_t* stop);

  const Judge::Report& report() const { return judge_.report(); }
  const World& world() const { return world_; }
  double seconds_run() const { return seconds_run_; }

 private:
  void ReadLog();
  void SendProbe();
  void SendMarker();
  void Step(int64_t now_ns);
  void Housekeep(int64_t now_ns);
  void Drain();
  void WaitFor(int64_t until_ns);
  void PrintProgress(int64_t now_ns);

  const DriverOptions options_;
  World world_;
  UniqueFd client_;
  std::vector<std::unique_ptr<Place>> places_;
  std::unique_ptr<Injector> injector_;
  LogReader log_;
  Judge judge_;
  UniqueFd marker_listener_;
  int64_t change_due_ns_ = 0, packet_due_ns_ = 0, housekeeping_due_ns_ = 0, progress_due_ns_ = 0;
  int64_t marked_ns_ = 0;  // when the last marker was sent
  int unmarked_ = 0;       // packets sent since
  int64_t began_ns_ = 0;
  double seconds_run_ = 0;
};

// Changes made, of all kinds.
uint64_t ChangesMade(const World& world);

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_DRIVER_H_
