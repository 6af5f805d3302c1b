// SPDX-License-Identifier: GPL-3.0-or-later
#include "lab.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "utproxy/parse.h"

namespace utproxy::parity {

struct Lab::Answer {
  Packet packet;                    // as parsed
  std::array<Outcome, 2> outcomes;  // by oracle
  bool unknowable = false;
  std::optional<size_t> time_wait;  // the minisocket that the packet may end
};

namespace {

const SocketSpec* SpecOf(const Scene& scene, const Outcome& outcome) {
  if (outcome.who != Outcome::Who::kFull || outcome.id == 0 || outcome.id > scene.sockets.size()) {
    return nullptr;
  }
  return &scene.sockets[outcome.id - 1];
}

// What bind() makes of IPV6_V6ONLY: an address other than :: and mapped ones sets it
// (__inet6_bind).
bool OnlyV6(const SocketSpec& s) {
  return s.v6only || (s.inet6 && !s.local.IsUnspecified() && !s.local.IsV4Mapped());
}

// A socket joins the group of those that are bound to its device at that moment, which may have
// joined with another one, and stays there when it is bound to another one.
bool MayShareDevice(const SocketSpec& a, const SocketSpec& b) {
  const auto joined = [](const SocketSpec& s) {
    return s.first_device >= -1 ? s.first_device : s.device;
  };
  return a.device == b.device || joined(a) == joined(b) || a.device == joined(b) ||
         joined(a) == b.device;
}

// Members of one SO_REUSEPORT group (reuseport_alloc, inet_reuseport_add_sock): which of them is
// picked depends on a hash.
bool SameGroup(const SocketSpec& a, const SocketSpec& b) {
  return a.reuseport && b.reuseport && a.proto == b.proto && a.inet6 == b.inet6 &&
         a.local == b.local && a.local_port == b.local_port && MayShareDevice(a, b) &&
         OnlyV6(a) == OnlyV6(b);
}

bool SameSocket(const Scene& scene, const Outcome& a, const Outcome& b) {
  if (a.who == b.who && a.id == b.id) return true;
  const SocketSpec* first = SpecOf(scene, a);
  const SocketSpec* second = SpecOf(scene, b);
  return first != nullptr && second != nullptr && SameGroup(*first, *second);
}

// In another namespace the hash picks another member, which decides where not all are transparent,
// or were not when request sockets came into being.
bool DependsOnHash(const Scene& scene, const Packet& packet) {
  for (const SocketSpec& a : scene.sockets) {
    for (const SocketSpec& b : scene.sockets) {
      if (a.proto == packet.proto() && SameGroup(a, b) &&
          (a.transparent != b.transparent || a.switched != b.switched))
        return true;
    }
  }
  return false;
}

// In another namespace a request socket can come from another member, and have that one's device.
bool DeviceDependsOnHash(const Scene& scene, const Packet& packet) {
  for (const SocketSpec& a : scene.sockets) {
    for (const SocketSpec& b : scene.sockets) {
      if (packet.is_tcp() && a.proto == Proto::kTcp && a.local_port == packet.dport &&
          SameGroup(a, b) && a.device != b.device)
        return true;
    }
  }
  return false;
}

// What sock_diag cannot tell:
// - which member of a group a request socket came from, or whether a foreign sk_lookup program led
//   its SYN to a listener;
// - which member TPROXY, or such a program, picks for a client that has a connection to laddr:lport
//   from the very port: asked for, that connection is the answer.
bool Unknowable(const Scene& scene, const Packet& packet, const Decision& decision) {
  if (scene.steers.empty() && !DependsOnHash(scene, packet)) return false;
  if (decision.socket && decision.socket->request()) return true;
  if (!packet.is_tcp() || !decision.listener_looked_up) return false;
  return std::any_of(scene.sockets.begin(), scene.sockets.end(), [&](const SocketSpec& s) {
    return s.remote == packet.src && s.remote_port == packet.sport && s.local == decision.laddr &&
           s.local_port == decision.lport;
  });
}

// The chosen socket, transparent or not, is in a group with sockets that were bound to another
// device after they joined: the kernel may pick one of those, to which the packet's device would
// not lead.
bool GroupMoved(const Scene& scene, const Decision& decision) {
  if (!decision.socket || !decision.listener_looked_up) return false;
  // Each socket's SO_MARK is its number, from 1.
  const uint32_t number = decision.socket->mark;
  if (number == 0 || number > scene.sockets.size()) return false;
  const SocketSpec* chosen = &scene.sockets[number - 1];
  return std::any_of(scene.sockets.begin(), scene.sockets.end(), [&](const SocketSpec& s) {
    return SameGroup(s, *chosen) && s.device != chosen->device;
  });
}

// Whether all that weighs in the lookups of this packet is known to sock_diag, so that the scores
// that the mirror counts must come to what the kernel's come to: no groups, no SO_INCOMING_CPU, and
// for UDP, the order of whose chains is not told, no two sockets alike.
bool ScoresTell(const Scene& scene, const Packet& packet, const Decision& decision) {
  if (!decision.by_listener() && decision.reason != Reason::kNoSocket) return false;
  std::vector<const SocketSpec*> bound;
  for (const SocketSpec& s : scene.sockets) {
    const bool here =
        s.local_port == decision.lport && (s.local == decision.laddr || s.local.IsUnspecified());
    const bool own = !packet.is_tcp() && s.local_port == packet.dport &&
                     (s.local == packet.dst || s.local.IsUnspecified());
    if (s.proto == packet.proto() && (here || own)) bound.push_back(&s);
  }
  for (const SocketSpec* a : bound) {
    if (a->reuseport || a->incoming_cpu >= 0) return false;
    if (packet.is_tcp()) {
      // The two families are dumped one after the other: nothing tells the order between them.
      for (const SocketSpec* b : bound) {
        if (a->inet6 != b->inet6 && (a->device >= 0) != (b->device >= 0)) return false;
      }
      continue;
    }
    for (const SocketSpec* b : bound) {
      const bool alike = a->local == b->local && a->inet6 == b->inet6 &&
                         (a->device >= 0) == (b->device >= 0) &&
                         (a->remote_port != 0) == (b->remote_port != 0);
      if (a != b && alike) return false;
    }
  }
  return true;
}

std::optional<size_t> TimeWaitOf(const Scene& scene, const PacketSpec& spec, const Packet& packet) {
  if (!packet.is_pure_syn() || packet.outcome != ParseOutcome::kOk) return std::nullopt;
  for (size_t i = 0; i < scene.sockets.size(); ++i) {
    const SocketSpec& s = scene.sockets[i];
    if (s.state == SockState::kTimeWait && s.proto == Proto::kTcp && s.local == packet.dst &&
        s.remote == packet.src && s.local_port == packet.dport && s.remote_port == packet.sport &&
        (s.device < 0 || s.device == spec.device)) {
      return i;
    }
  }
  return std::nullopt;
}

bool IsSteered(const Scene& scene, const Packet& packet) {
  return std::any_of(scene.steers.begin(), scene.steers.end(),
                     [&](const SteerSpec& steer) { return steer.flow == packet.key(); });
}

// What an oracle is compared with: nft's `meta l4proto` and tproxy stop at an authentication
// header, xt_TPROXY walks through it.
bool Comparable(Oracle oracle, const PacketSpec& spec) {
  return oracle == Oracle::kXt || !spec.has_ah;
}

// The flows of minisockets and request sockets that have come to their end meanwhile: the other
// namespace's may be there still, as the two are not asked at one time.
std::vector<FlowKey> Vanished(const Scene& scene, const Sockets& sockets, const Netns& netns) {
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  if (!client.ok()) Fatal("no sock_diag");
  std::vector<FlowKey> flows;
  for (size_t i = 0; i < scene.sockets.size(); ++i) {
    const SocketSpec& spec = scene.sockets[i];
    if (!sockets.made(i) || spec.proto != Proto::kTcp || spec.remote_port == 0) continue;
    const Packet packet = PacketOf(spec, netns);
    client->AddQuery(packet.family, packet.key(), packet.iif);
    flows.push_back(packet.key());
  }
  std::vector<FlowKey> vanished;
  const absl::Span<const ExactReply> replies = client->Ask();
  for (size_t i = 0; i < flows.size(); ++i) {
    if (!replies[i].socket || replies[i].socket->listening()) vanished.push_back(flows[i]);
  }
  return vanished;
}

void Steer(Steering* steering, const Netns& netns, const Scene& scene, const Sockets& sockets) {
  for (const SteerSpec& steer : scene.steers) {
    const int fd = sockets.fd(steer.id - 1);
    if (fd < 0) continue;
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    struct stat status {};
    ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
    ::fstat(fd, &status);
    for (int device = 0; device < kDevices; ++device) {
      const SteerRequest request{.flow = steer.flow,
                                 .listener_cookie = cookie,
                                 .listener_inode = static_cast<uint32_t>(status.st_ino),
                                 .iif = netns.ifindex(device)};
      SteerResult result = SteerResult::kFailed;
      steering->Steer({&request, 1}, {&result, 1});
      if (result != SteerResult::kSteered) Fatal("a foreign sk_lookup program's entry failed");
    }
  }
}

std::unique_ptr<Steering> ForeignProgram() {
  absl::StatusOr<std::unique_ptr<Steering>> steering =
      Steering::Open({.max_flows = 4096, .max_listeners = 256});
  if (!steering.ok()) Fatal(absl::StrCat("no sk_lookup: ", steering.status().message()));
  return *std::move(steering);
}

}  // namespace

const char* WayName(Way way) {
  switch (way) {
    case Way::kExact:
      return "decide over exact queries";
    case Way::kMirror:
      return "decide over the mirror";
    case Way::kDaemon:
      return "the running daemon";
  }
  return "";
}

Lab::Lab(const Generator::World& world, const Options& options)
    : world_(world),
      options_(options),
      netns_(world.addresses),
      oracle_(netns_, world.policies, world.marks) {
  {
    const Netns::Inside inside(netns_);
    ways_ = std::make_unique<Ways>(netns_);
    if (world.steers) foreign_ = ForeignProgram();
  }
  if (options.program.empty()) return;
  for (const Policy& policy : world.policies) {
    // Rules have to have a mark to lead by.
    const bool fast = options.fast_path && (policy.mark_value & policy.mark_mask) != 0;
    daemons_.push_back(
        std::make_unique<DaemonWay>(options.program, world.addresses, policy, world.marks, fast));
    carried_.push_back(0);
    const Netns::Inside inside(daemons_.back()->netns());
    daemons_foreign_.push_back(world.steers ? ForeignProgram() : nullptr);
  }
}

// A socket whose number fits the rule's mark is routed by it where a daemon's namespace has the
// rule for that, and so connects from 127.0.0.1, and answers, where the kernel's is refused; one
// that is bound to no address connects from its peer's.
bool Lab::MadeAlike(const Scene& scene, const Policy& policy, const Sockets& sockets) const {
  for (size_t i = 0; i < scene.sockets.size(); ++i) {
    if (kernel_made_[i] != sockets.made(i)) return false;
    const SocketSpec& spec = scene.sockets[i];
    const bool routed = ((spec.id ^ policy.mark_value) & policy.mark_mask) == 0;
    if (!routed || spec.remote_port == 0) continue;
    if (spec.local.Ipv4() == htonl(INADDR_LOOPBACK) || spec.local.IsUnspecified()) return false;
  }
  return true;
}

std::vector<Difference> Lab::Run(const Scene& scene, absl::Span<const Case> cases,
                                 Coverage* coverage, Totals* totals) {
  std::vector<Difference> differences;
  Answers answers(cases.size() * world_.policies.size());
  // The daemons' sockets first: while the kernel is asked, their mirrors take them in.
  std::vector<std::unique_ptr<Sockets>> sockets;
  for (size_t i = 0; i < daemons_.size(); ++i) {
    DaemonWay& daemon = *daemons_[i];
    const Netns::Inside inside(daemon.netns());
    daemon.AwaitEnds();
    const auto observe = [&daemon](absl::Span<const SocketSpec> which) { daemon.Observe(which); };
    sockets.push_back(std::make_unique<Sockets>(daemon.netns(), scene.sockets, observe));
    if (daemons_foreign_[i]) Steer(daemons_foreign_[i].get(), daemon.netns(), scene, *sockets[i]);
  }
  const auto made = std::chrono::steady_clock::now();
  AskKernel(scene, cases, coverage, totals, &answers, &differences);
  for (size_t i = 0; i < daemons_.size(); ++i) {
    const Netns::Inside inside(daemons_[i]->netns());
    daemons_[i]->Settle(made);
    if (!MadeAlike(scene, world_.policies[i], *sockets[i])) continue;
    for (int times = daemons_[i]->fast_path() ? 2 : 1; times > 0; --times) {
      AskDaemon(i, scene, cases, answers, sockets[i].get(), totals, &differences);
    }
    if (!daemons_[i]->fast_path()) sockets[i].reset();
  }
  if (options_.fast_path) {
    RunAfterEnds(scene, cases, sockets, coverage, totals, &differences);
  }
  for (size_t i = 0; i < daemons_.size(); ++i) {
    const Netns::Inside inside(daemons_[i]->netns());
    sockets[i].reset();
  }
  return differences;
}

namespace {

// Every other listener and UDP socket. A TCP listener takes its request sockets along.
bool EndsBetween(const Scene& scene, size_t index) {
  const SocketSpec& spec = scene.sockets[index];
  const bool requests = std::any_of(scene.sockets.begin(), scene.sockets.end(), [](const auto& s) {
    return s.state == SockState::kNewSynRecv;
  });
  const bool listener = spec.proto == Proto::kTcp && spec.remote_port == 0;
  return (spec.proto == Proto::kUdp || (listener && !requests)) && index % 2 == 0;
}

}  // namespace

// The same packets again, when some sockets have gone that their flows led to.
void Lab::RunAfterEnds(Scene scene, absl::Span<const Case> cases,
                       const std::vector<std::unique_ptr<Sockets>>& sockets, Coverage* coverage,
                       Totals* totals, std::vector<Difference>* differences) {
  const auto fast = std::find_if(daemons_.begin(), daemons_.end(),
                                 [](const auto& daemon) { return daemon->fast_path(); });
  if (fast == daemons_.end()) return;
  const Sockets& made = *sockets[static_cast<size_t>(fast - daemons_.begin())];
  std::vector<bool> ends(scene.sockets.size());
  for (size_t i = 0; i < ends.size(); ++i) ends[i] = EndsBetween(scene, i);
  for (size_t i = 0; i < ends.size(); ++i) scene.sockets[i].absent = ends[i] || !made.made(i);
  Answers answers(cases.size() * world_.policies.size());
  AskKernel(scene, cases, coverage, totals, &answers, differences);
  for (size_t i = 0; i < daemons_.size(); ++i) {
    DaemonWay& daemon = *daemons_[i];
    if (!daemon.fast_path()) continue;
    const Netns::Inside inside(daemon.netns());
    for (size_t s = 0; s < ends.size(); ++s) {
      if (ends[s]) sockets[i]->Close(s);
    }
    daemon.Settle(std::chrono::steady_clock::now());
    if (!MadeAlike(scene, world_.policies[i], *sockets[i])) continue;
    AskDaemon(i, scene, cases, answers, sockets[i].get(), totals, differences);
    const uint64_t carried = daemon.Carried();
    totals->carried += carried - carried_[i];
    carried_[i] = carried;
  }
}

void Lab::Compare(const Scene& scene, const Answer& answer, Way way, const Decision* decision,
                  Difference where, std::vector<Difference>* differences) const {
  where.way = way;
  if (answer.unknowable) return;
  const Outcome got = decision != nullptr ? OutcomeOf(*decision) : Outcome();
  for (const Oracle oracle : options_.oracles) {
    const Outcome& expected = answer.outcomes[static_cast<size_t>(oracle)];
    const bool same = decision != nullptr && got.hit == expected.hit && got.mark == expected.mark &&
                      SameSocket(scene, got, expected);
    if (same) continue;
    where.oracle = oracle;
    where.expected = expected;
    where.got = decision == nullptr
                    ? "the kernel gave no answer"
                    : absl::StrCat(OutcomeText(got), " (", ReasonName(decision->reason), ")");
    differences->push_back(where);
  }
}

void Lab::AskKernel(const Scene& scene, absl::Span<const Case> cases, Coverage* coverage,
                    Totals* totals, Answers* answers, std::vector<Difference>* differences) {
  const Netns::Inside inside(netns_);
  const auto observe = [this](absl::Span<const SocketSpec> which) { ways_->Observe(which); };
  Sockets sockets(netns_, scene.sockets, observe);
  std::vector<bool> made(scene.sockets.size());
  for (size_t i = 0; i < made.size(); ++i) made[i] = sockets.made(i);
  kernel_made_ = made;
  totals->sockets += made.size();
  totals->unmade += static_cast<uint64_t>(std::count(made.begin(), made.end(), false));
  if (foreign_) Steer(foreign_.get(), netns_, scene, sockets);
  ways_->Refresh();

  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& one = cases[i];
    for (size_t p = 0; p < world_.policies.size(); ++p) {
      const Policy& policy = world_.policies[p];
      Answer& answer = (*answers)[i * world_.policies.size() + p];
      const std::vector<uint8_t> bytes = PacketBytes(one.packet, 1, one.mark_index, 1);
      answer.packet.iif = netns_.ifindex(one.packet.device);
      answer.packet.mark = world_.marks[one.mark_index - 1u];
      ParsePacket(bytes, static_cast<uint32_t>(bytes.size()), &answer.packet);
      answer.time_wait = TimeWaitOf(scene, one.packet, answer.packet);

      Steps steps;
      const std::optional<Decision> exact = ways_->Exact(answer.packet, policy, &steps);
      answer.unknowable = exact && Unknowable(scene, answer.packet, *exact);
      const Ways::Mirrored mirrored = ways_->OverMirror(answer.packet, policy);
      for (const Oracle oracle : options_.oracles) {
        Outcome outcome = oracle_.Ask(oracle, p, one.packet, one.mark_index, next_id_++);
        if (next_id_ == 0xfff0) next_id_ = 1;
        if (answer.time_wait) sockets.Remake(*answer.time_wait, observe);
        if (!Comparable(oracle, one.packet)) outcome = exact ? OutcomeOf(*exact) : Outcome();
        answer.outcomes[static_cast<size_t>(oracle)] = outcome;
      }
      if (answer.time_wait) ways_->Refresh();
      ++totals->cases;
      const Difference where{.case_index = i, .policy = p};
      Compare(scene, answer, Way::kExact, exact ? &*exact : nullptr, where, differences);
      // A mirror knows nothing of other sk_lookup programs; the engine asks wherever one could
      // matter.
      const bool told = mirrored.certain || ScoresTell(scene, answer.packet, mirrored.decision);
      if (told && !GroupMoved(scene, mirrored.decision) &&
          (!foreign_ || mirrored.decision.reason == Reason::kEstablished)) {
        ++totals->by_mirror;
        Compare(scene, answer, Way::kMirror, &mirrored.decision, where, differences);
      }
      const Outcome& first = answer.outcomes[static_cast<size_t>(options_.oracles[0])];
      if (coverage != nullptr && exact) {
        coverage->Count({scene, made, policy, one.packet, answer.packet, first, *exact, steps});
      }
    }
  }
}

void Lab::AskDaemon(size_t policy, const Scene& scene, absl::Span<const Case> cases,
                    const Answers& answers, Sockets* sockets, Totals* totals,
                    std::vector<Difference>* differences) {
  DaemonWay& daemon = *daemons_[policy];
  const auto observe = [&daemon](absl::Span<const SocketSpec> which) { daemon.Observe(which); };
  std::vector<DaemonCase> asked;
  for (const Case& one : cases)
    asked.push_back({.packet = &one.packet, .mark_index = one.mark_index});

  // Those that end a minisocket by themselves, the others between them at once.
  const auto answer_of = [&](size_t i) -> const Answer& {
    return answers[i * world_.policies.size() + policy];
  };
  for (size_t from = 0; from < cases.size();) {
    size_t to = from;
    while (to < cases.size() && !answer_of(to).time_wait) ++to;
    if (to > from) daemon.Ask(absl::MakeSpan(asked).subspan(from, to - from));
    if (to < cases.size()) {
      daemon.Ask(absl::MakeSpan(asked).subspan(to, 1));
      sockets->Remake(*answer_of(to).time_wait, observe);
      ++to;
    }
    from = to;
  }
  const Policy& rule = world_.policies[policy];
  const std::vector<FlowKey> vanished = Vanished(scene, *sockets, daemon.netns());
  for (size_t i = 0; i < cases.size(); ++i) {
    const Answer& answer = answer_of(i);
    // nft's rules stop at an authentication header and take whole TCP and UDP packets only; and
    // they look sockets up by the packet's own address and port, where a foreign program may have
    // its say.
    const bool not_taken = answer.packet.outcome != ParseOutcome::kOk || cases[i].packet.has_ah ||
                           IsSteered(scene, answer.packet);
    if (daemon.fast_path() && not_taken) continue;
    const bool gone =
        std::find(vanished.begin(), vanished.end(), answer.packet.key()) != vanished.end();
    if (gone || answer.unknowable || DependsOnHash(scene, answer.packet) ||
        DeviceDependsOnHash(scene, answer.packet)) {
      continue;
    }
    ++totals->by_daemon;
    for (const Oracle oracle : options_.oracles) {
      const Outcome& expected = answer.outcomes[static_cast<size_t>(oracle)];
      // Defragmentation keeps a fragment alone for itself, before either hook.
      const bool kept = answer.packet.outcome == ParseOutcome::kFragment;
      const bool seen = expected.hit || (rule.on_miss == OnMiss::kAccept && !kept);
      const uint32_t mark = expected.hit ? expected.mark : answer.packet.mark;
      if (asked[i].seen == seen && (!seen || asked[i].mark == mark)) continue;
      const std::string got =
          asked[i].seen ? absl::StrCat("accepted with mark ", asked[i].mark) : "dropped";
      differences->push_back({i, policy, oracle, Way::kDaemon, expected, got});
    }
  }
}

}  // namespace utproxy::parity
