// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_LISTENERS_H_
#define UTPROXY_TESTS_CHURN_LISTENERS_H_

#include <vector>

#include "churn/place.h"

namespace utproxy::churn {

// A port whose listeners (TCP) or unconnected sockets (UDP) come and go: bound to no address, to
// the interface's, to the one that is asked; in both families. For UDP, sockets are connected to
// the senders of some flows as well, from the asked address, and, seldom, from the interface's.
class ListenerPlace : public Place {
 public:
  ListenerPlace(World* world, Proto proto, uint16_t port);

  void ChangeSomething() override;
  bool ChooseProbe(Probe* probe) override;

 private:
  struct Owned {
    UniqueFd fd;
    uint32_t mark = 0;
    Bound bound = Bound::kAny;
    Serves serves = Serves::kIpv4;
    uint16_t flow = 0;  // UDP: the port that it is for; 0: for all
    bool connected = false;
    bool listening = true;  // TCP
    bool transparent = true;
  };
  // What a change is about: at most one socket has it, but while one replaces another.
  struct Slot {
    Bound bound;
    Family family;
    uint16_t flow;
  };

  Slot ChooseSlot();
  Owned* Find(const Slot& slot);
  bool Open(const Slot& slot);
  void ChangeListener(const Slot& slot, Owned* owned);
  void ChangeFlow(Owned* owned);
  void Connect(Owned* owned);
  void Toggle(Owned* owned);
  void Close(Owned* owned);
  void Unlisten(Owned* owned);
  void Relisten(Owned* owned);

  std::vector<uint16_t> flows_;  // ports of the client's that packets often come from
  std::vector<Owned> owned_;
};

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_LISTENERS_H_
