// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: what a client sends to the control socket, through a server on a real one. The
// first byte says where the bytes are parted in two, and whether the client stays for the answer;
// if so, that begins with {"begin": true} and ends with an end or an error, all of it JSON.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "daemon/control_server.h"
#include "daemon/trace_json.h"
#include "daemon/trace_stream.h"
#include "decide/explain.h"
#include "decide/list_lookup.h"

namespace utproxy {
namespace {

std::string NameOf(uint32_t index) { return index == 7 ? "lan0" : ""; }
absl::StatusOr<uint32_t> IndexOf(absl::string_view name) {
  if (name.empty()) return 0;
  if (name == "lan0") return 7;
  return absl::NotFoundError("no such interface");
}

// Two decisions, of which the filter may want one.
absl::Status Trace(const Json& request, const ControlServer::Writer& write) {
  absl::StatusOr<TraceRequest> wanted = TraceRequest::FromJson(request);
  RETURN_IF_ERROR(wanted.status());
  const TraceContext context{.target = "dns", .queue = 3, .names = NameOf};
  for (const uint8_t protocol : {uint8_t{6}, uint8_t{17}}) {
    TraceRecord record;
    record.packet.protocol = protocol;
    record.packet.dport = 53;
    record.packet.iif = 7;
    const FilterSubject subject{
        .record = record, .target = context.target, .queue = 3, .names = NameOf};
    if (!wanted->filter.Passes(subject)) continue;
    (void)write.Lines(JsonLine(ToJson(record, context, wanted->parts, nullptr, {})) + "\n");
  }
  return absl::OkStatus();
}

absl::Status ExplainPacket(const Json& request, const ControlServer::Writer& write) {
  if (!request.contains("packet")) return absl::InvalidArgumentError("explain: no packet");
  ASSIGN_OR_RETURN(const Packet packet, PacketFromJson(request["packet"], IndexOf));
  ListLookup lookup({}, {});
  const Explanation explanation = Explain(packet, Policy(), lookup);
  (void)write(ToJson(explanation.decision, packet, NameOf));
  return absl::OkStatus();
}

// As the daemon's, over nothing but the request.
absl::Status Handle(const Json& request, const ControlServer::Writer& write) {
  const std::string command = request["command"].get<std::string>();
  if (command == "trace") return Trace(request, write);
  if (command == "explain") return ExplainPacket(request, write);
  if (command == "sockets" && request.value("interfaces", Json(false)) == Json(true)) {
    (void)write({{"interface", "lan0"}});
  }
  if (command == "sockets") return absl::OkStatus();
  return absl::InvalidArgumentError("request: unknown command");
}

std::unique_ptr<ControlServer> g_server;

const sockaddr_un& ServerAddress() {
  static const sockaddr_un address = [] {
    const std::string path = "/tmp/utproxy-fuzz-" + std::to_string(::getpid()) + ".sock";
    auto server = ControlServer::Open(path, {.user = ::getuid(), .group = ::getgid()});
    if (!server.ok()) std::abort();
    g_server = *std::move(server);
    g_server->Serve(Handle);
    std::atexit([] { g_server.reset(); });
    return *ControlAddress(path);
  }();
  return address;
}

// What the server sends until it closes.
std::string ReadAll(int fd) {
  std::string all;
  char buffer[4096];
  pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
  // libFuzzer's clock interrupts it.
  for (int ready = 1; ready != 0;) {
    ready = ::poll(&waiting, 1, 30'000);
    if (ready <= 0) continue;
    const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) return all;
    all.append(buffer, static_cast<size_t>(n));
  }
  std::fprintf(stderr, "the server does not end\n");
  std::abort();
}

// A client that sent more than was read is cut off with a reset, and may lose the answer.
void CheckAnswer(const std::string& answer) {
  size_t lines = 0;
  for (size_t at = 0; at < answer.size(); ++lines) {
    const size_t end = answer.find('\n', at);
    if (end == std::string::npos) std::abort();
    const Json json = Json::parse(answer.begin() + static_cast<ptrdiff_t>(at),
                                  answer.begin() + static_cast<ptrdiff_t>(end), nullptr, false);
    if (!json.is_object()) std::abort();
    at = end + 1;
    if (lines == 0 && !json.contains("begin")) std::abort();
    if (at == answer.size() && !json.contains("end") && !json.contains("error")) std::abort();
  }
}

}  // namespace
}  // namespace utproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy;  // NOLINT
  if (size == 0) return 0;
  absl::StatusOr<UniqueFd> fd = OpenUnix();
  if (!fd.ok() || Connect(fd->get(), ServerAddress()) != 0) std::abort();
  const absl::string_view all(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t part = data[0] >> 1;
  (void)WriteAll(fd->get(), -1, all.substr(0, part), kNsPerSec);
  if (part < all.size()) (void)WriteAll(fd->get(), -1, all.substr(part), kNsPerSec);
  if ((data[0] & 1) == 0) return 0;
  ::shutdown(fd->get(), SHUT_WR);
  CheckAnswer(ReadAll(fd->get()));
  return 0;
}
