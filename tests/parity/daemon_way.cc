// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon_way.h"

#include <absl/container/flat_hash_set.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "daemon/control_client.h"
#include "ruleset/ruleset.h"
#include "ways.h"

namespace utproxy::parity {
namespace {

constexpr int kQueue = 7;
constexpr uint16_t kGroup = 1;
constexpr uint16_t kBarrierId = 0xffff;
constexpr int kVerdictTimeoutMs = 5000;
constexpr int kSettleTimeoutMs = 2000;

// The rule with tproxy is never reached: its presence makes the kernel put fragments together.
constexpr char kTellAndDrop[] = R"(
  chain tell {
    type filter hook prerouting priority -148;
    iifname != "p*" accept
    ip dscp 0 accept
    ip6 dscp 0 accept
    log group 1 queue-threshold 1 snaplen 64
    drop
  }
  chain defragment {
    meta l4proto tcp tproxy ip to :1
    meta l4proto tcp tproxy ip6 to :1
  }
}
)";

constexpr char kQueueRules[] =
    "*mangle\n-A PREROUTING -i p+ -m dscp ! --dscp 0 -j NFQUEUE --queue-num 7\nCOMMIT\n";

// Packets with DSCP 0 are for the sockets. What always hits tells that all before it have had their
// verdicts, so it must itself be queued each time.
constexpr char kExceptions[] = R"(
insert rule inet utproxy prerouting ip dscp 0 accept
insert rule inet utproxy prerouting ip6 dscp 0 accept
insert rule inet utproxy learn ip daddr 203.0.113.250 accept
)";

// The rule that iptables' would be, with what goes before it.
void InstallFastPath(const Policy& policy) {
  RulesetSpec spec;
  for (int device = 0; device < kDevices; ++device) spec.match.iifs.push_back(DeviceName(device));
  spec.mark_value = policy.mark_value;
  spec.mark_mask = policy.mark_mask;
  spec.queue_first = spec.queue_last = kQueue;
  spec.fast_path = true;
  spec.misses_pass = policy.on_miss == OnMiss::kAccept;
  const auto installed = InstallPersistentRuleset({&spec, 1});
  if (!installed.ok()) Fatal(absl::StrCat("no fast path: ", installed.status().message()));
  Shell("exec nft -f -", kExceptions);
}

SocketSpec AlwaysHit() {
  return SocketSpec{.proto = Proto::kUdp,
                    .state = SockState::kEstablished,
                    .local = *Address::Parse("203.0.113.250"),
                    .remote = *Address::Parse("203.0.113.251"),
                    .local_port = 9,
                    .remote_port = 9};
}

UniqueFd ConnectAlwaysHit() {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  const SocketSpec spec = AlwaysHit();
  sockaddr_in local{}, remote{};
  local.sin_family = remote.sin_family = AF_INET;
  local.sin_port = remote.sin_port = htons(9);
  local.sin_addr.s_addr = spec.local.Ipv4();
  remote.sin_addr.s_addr = spec.remote.Ipv4();
  const bool ok =
      ::setsockopt(fd.get(), SOL_IP, IP_TRANSPARENT, &on, sizeof on) == 0 &&
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&local), sizeof local) == 0 &&
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&remote), sizeof remote) == 0;
  if (!ok) Fatal(absl::StrCat("a transparent connected socket: ", std::strerror(errno)));
  return fd;
}

std::vector<std::string> Arguments(const std::string& program, const Policy& policy,
                                   const std::string& control, bool fast_path) {
  std::vector<std::string> words = {
      program,         "run",
      "--queue-num",   absl::StrCat(kQueue),
      "--on-port",     absl::StrCat(policy.on_port),
      "--tproxy-mark", absl::StrFormat("%#x/%#x", policy.mark_value, policy.mark_mask),
      "--on-miss",     policy.on_miss == OnMiss::kDrop ? "drop" : "accept",
      "--control",     control};
  if (fast_path) words.insert(words.end(), {"--fast-path", "divert", "--log-level", "warning"});
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    if (policy.on_ip(family).IsUnspecified()) continue;
    words.insert(words.end(), {"--on-ip", policy.on_ip(family).ToString(family)});
  }
  return words;
}

// The cookies of those of the connections that there are.
std::vector<uint64_t> Cookies(absl::Span<const SocketSpec> connections, const Netns& netns) {
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  if (!client.ok()) Fatal("no sock_diag");
  for (const SocketSpec& spec : connections) {
    const Packet packet = PacketOf(spec, netns);
    client->AddQuery(packet.family, packet.key(), packet.iif);
  }
  std::vector<uint64_t> cookies;
  for (const ExactReply& reply : client->Ask()) {
    if (reply.socket && !reply.socket->listening()) cookies.push_back(reply.socket->cookie);
  }
  return cookies;
}

// Reads what the daemon says until it is ready.
bool WaitReady(int log, std::string* said) {
  char buffer[512];
  pollfd poll{.fd = log, .events = POLLIN, .revents = 0};
  while (::poll(&poll, 1, 20'000) == 1) {
    const ssize_t n = ::read(log, buffer, sizeof buffer);
    if (n <= 0) return false;
    said->append(buffer, static_cast<size_t>(n));
    if (said->find("utproxy: ready") != std::string::npos) return true;
  }
  return false;
}

}  // namespace

DaemonWay::DaemonWay(const std::string& program, const DeviceAddresses& addresses,
                     const Policy& policy, const Marks& marks, bool fast_path)
    : fast_path_(fast_path), netns_(addresses), nflog_(SetUp(policy, marks)) {
  const Netns::Inside inside(netns_);
  Start(program, policy);
}

Nflog DaemonWay::SetUp(const Policy& policy, const Marks& marks) {
  const Netns::Inside inside(netns_);
  if (fast_path_) {
    InstallFastPath(policy);
  } else {
    Shell("exec iptables-legacy-restore", kQueueRules);
    Shell("exec ip6tables-legacy-restore", kQueueRules);
  }
  Shell("exec nft -f -", absl::StrCat("table inet daemon {\n", MarkRules(marks), kTellAndDrop));
  always_hit_ = ConnectAlwaysHit();
  return Nflog(kGroup, kGroup);
}

void DaemonWay::Start(const std::string& program, const Policy& policy) {
  static int number = 0;
  control_ = absl::StrCat("/tmp/utp-", ::getpid(), "-parity-", number++, ".sock");
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) Fatal("no pipe");
  log_.reset(pipe[0]);
  UniqueFd write_end(pipe[1]);
  std::vector<std::string> words = Arguments(program, policy, control_, fast_path_);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    // However this program ends, the daemon is not to outlive it.
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::setpgid(0, 0);  // a terminal's Ctrl-C is for this program, which ends the daemon in its turn
    ::dup2(write_end.get(), STDERR_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  std::string said;
  write_end.reset();  // so that the pipe ends with the daemon
  if (!WaitReady(log_.get(), &said)) Fatal(absl::StrCat(program, " run is not ready: ", said));
  ::fcntl(log_.get(), F_SETFL, O_NONBLOCK);
}

DaemonWay::~DaemonWay() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  if (status != 0) Fatal(absl::StrCat("utproxy run ended with status ", status));
}

void DaemonWay::Ask(absl::Span<DaemonCase> cases) {
  char said[4096];
  while (::read(log_.get(), said, sizeof said) > 0) {  // lest the pipe fill up
  }
  if (next_id_ + cases.size() >= kBarrierId) next_id_ = 1;
  const uint16_t first = next_id_;
  for (size_t i = 0; i < cases.size(); ++i) {
    const PacketSpec& packet = *cases[i].packet;
    const uint16_t id = next_id_++;
    for (const auto& part : Fragments(packet, PacketBytes(packet, 1, cases[i].mark_index, id))) {
      netns_.Receive(packet.device, part);
    }
  }
  const PacketSpec barrier{.packet = PacketOf(AlwaysHit(), netns_)};
  netns_.Receive(0, PacketBytes(barrier, 1, 1, kBarrierId));
  std::vector<Logged> logged;
  while (logged.empty() || logged.back().id != kBarrierId) {
    const size_t before = logged.size();
    nflog_.Read(&logged, kVerdictTimeoutMs);
    if (logged.size() == before) Fatal("utproxy run gives no verdicts any more");
  }
  logged.pop_back();
  for (const Logged& one : logged) {
    const size_t at = static_cast<size_t>(one.id - first);
    if (one.id < first || at >= cases.size()) Fatal("a packet came out that was not sent");
    cases[at].seen = true;
    cases[at].mark = one.mark;
  }
}

void DaemonWay::Observe(absl::Span<const SocketSpec> connections) {
  std::vector<PacketSpec> packets;
  for (const SocketSpec& connection : connections) {
    packets.push_back({.packet = PacketOf(connection, netns_),
                       .device = connection.device >= 0 ? connection.device : 0});
    // The fast path carries any other segment of a connection; a SYN is seen.
    if (fast_path_ && packets.back().packet.is_tcp()) packets.back().packet.tcp_flags = kTcpSyn;
  }
  std::vector<DaemonCase> cases;
  for (const PacketSpec& packet : packets) cases.push_back({.packet = &packet});
  Ask(absl::MakeSpan(cases));
  // What a worker learns goes through the mirror's thread.
  const std::vector<uint64_t> cookies = Cookies(connections, netns_);
  for (int ms = 0; ms < kSettleTimeoutMs && !MirrorHas(cookies); ++ms) ::usleep(1000);
}

void DaemonWay::AwaitEnds() const {
  int64_t events = -1;
  for (int ms = 0; ms < kSettleTimeoutMs; ms += 3) {
    const auto now = Control("stats").at(0).at("mirror").at("destroy_events").get<int64_t>();
    if (now == events) return;
    events = now;
    ::usleep(3000);
  }
}

void DaemonWay::Settle(std::chrono::steady_clock::time_point changed) const {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  int64_t events = -1;
  for (int ms = 0; ms < kSettleTimeoutMs; ms += 2) {
    const Json mirror = Control("stats").at(0).at("mirror");
    const int64_t passed =
        std::chrono::duration_cast<std::chrono::milliseconds>(now() - changed).count();
    // Milliseconds are cut off: it began after the change.
    const bool refreshed = mirror.at("age_ms").get<int64_t>() + 1 < passed;
    if (refreshed && mirror.at("destroy_events").get<int64_t>() == events) return SettleFastPath();
    events = mirror.at("destroy_events").get<int64_t>();
    ::usleep(2000);
  }
}

void DaemonWay::SettleFastPath() const {
  for (int ms = 0; fast_path_ && ms < kSettleTimeoutMs; ms += 5) {
    if (!Control("stats").at(0).at("fast_path").at("behind").get<bool>()) return;
    ::usleep(5'000);
  }
}

uint64_t DaemonWay::Carried() const {
  const Json stats = Control("stats").at(0);
  if (!fast_path_) return 0;
  return stats.at("fast_path").at("tcp").get<uint64_t>() +
         stats.at("fast_path").at("udp").get<uint64_t>();
}

bool DaemonWay::MirrorHas(absl::Span<const uint64_t> cookies) const {
  absl::flat_hash_set<uint64_t> mirrored;
  for (const Json& line : Control("sockets")) {
    if (line.contains("cookie")) mirrored.insert(line.at("cookie").get<uint64_t>());
  }
  return std::all_of(cookies.begin(), cookies.end(),
                     [&](uint64_t cookie) { return mirrored.contains(cookie); });
}

// Asks the daemon by its control socket; the objects of its answer.
std::vector<Json> DaemonWay::Control(absl::string_view command) const {
  std::vector<Json> objects;
  const absl::Status status =
      AskDaemon(control_, {{"command", command}}, [&](const Json& o) { objects.push_back(o); });
  if (!status.ok()) Fatal(absl::StrCat("utproxy run does not answer: ", status.message()));
  return objects;
}

}  // namespace utproxy::parity
