// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_CONNECTIONS_H_
#define UTPROXY_TESTS_CHURN_CONNECTIONS_H_

#include <cstdint>
#include <vector>

#include "churn/place.h"

namespace utproxy::churn {

// A TCP port with one listener that stays, and connections through it, really opened by clients,
// that come and go: their sockets are made opaque and transparent, closed, aborted from either
// side; what is left of them in TIME_WAIT is opened anew.
class ConnectionPlace : public Place {
 public:
  // `client`: the network namespace of the clients.
  ConnectionPlace(World* world, uint16_t port, const UniqueFd* client);

  void ChangeSomething() override;
  bool ChooseProbe(Probe* probe) override;
  void Attend(int64_t now_ns) override;

 private:
  enum class Phase : uint8_t {
    kOpening,  // the client has sent its SYN
    kOpen,
    kClosing,  // closed by the router; the client follows
    kAborted,  // by the client; its RST is under way
    kOver,     // nothing is known of it any more; to be forgotten
  };
  struct Flow {
    Phase phase = Phase::kOpening;
    Family family = Family::kIpv4;
    uint16_t sport = 0;
    uint32_t mark = 0;
    bool transparent = true;
    UniqueFd client, router;
    int64_t since_ns = 0;  // when the phase began
  };

  void OpenOne();
  void AcceptAll();
  void ChangeFlow(Flow* flow);
  void AttendFlow(Flow* flow, int64_t now_ns);
  void Enter(Flow* flow, Phase phase);
  void SetMayBe(const char* what, int64_t before_ns, Flow* flow, uint8_t may_be,
                Counts counts = Counts::kChange);
  void Forget(Flow* flow);

  const UniqueFd& client_;
  UniqueFd listener_;
  uint32_t listener_mark_;
  uint16_t next_sport_[2] = {10000, 10000};
  std::vector<Flow> flows_;
};

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_CONNECTIONS_H_
