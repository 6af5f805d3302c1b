// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_ENGINE_DECIDER_FIXTURE_H_
#define UTPROXY_TESTS_ENGINE_DECIDER_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/decider.h"
#include "support/sockets.h"

namespace utproxy {

// Deciders with a mirror and steering, in a network namespace of the test program's own.
class DeciderFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::EnterFreshNetns()) GTEST_SKIP() << "needs root: a network namespace of its own";
    absl::StatusOr<std::unique_ptr<Mirror>> mirror = Mirror::Start({});
    ASSERT_TRUE(mirror.ok()) << mirror.status();
    mirror_ = std::move(*mirror);
    absl::StatusOr<std::unique_ptr<Steering>> steering = Steering::Open({});
    ASSERT_TRUE(steering.ok()) << steering.status();
    steering_ = std::move(*steering);
  }

  std::unique_ptr<Decider> Make(const Policy& policy, const QueryRates& rates = {}) {
    return std::make_unique<Decider>(policy, mirror_.get(),
                                     ExactQuerier(*DiagClient::Open(), &mirror_->table()),
                                     steering_.get(), rates);
  }

  // Spread over the ports, by flow.
  std::unique_ptr<Decider> MakeSpread(const SpreadSpec& spread, const QueryRates& rates = {}) {
    const Policy policy{.on_port = spread.ports[0], .mark_value = 1};
    return std::make_unique<Decider>(
        policy, mirror_.get(), ExactQuerier(*DiagClient::Open(), &mirror_->table()),
        steering_.get(), rates, std::make_shared<const Spread>(spread));
  }

  static QueuedPacket Make(Proto proto, const std::string& src, const std::string& dst,
                           uint8_t flags) {
    const Endpoint s = *ParseEndpoint(src);
    const Endpoint d = *ParseEndpoint(dst);
    QueuedPacket queued;
    queued.packet = {.src = s.address,
                     .dst = d.address,
                     .sport = s.port,
                     .dport = d.port,
                     .family = s.family,
                     .protocol = static_cast<uint8_t>(proto),
                     .tcp_flags = flags,
                     .iif = 1};
    return queued;
  }

  static Decision One(Decider& decider, const QueuedPacket& packet) {
    Decision decision;
    decider.DecideBatch({&packet, 1}, {&decision, 1});
    return decision;
  }

  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<Steering> steering_;
};

}  // namespace utproxy

#endif  // UTPROXY_TESTS_ENGINE_DECIDER_FIXTURE_H_
