// SPDX-License-Identifier: GPL-3.0-or-later
// Sends UDP datagrams as fast as it can, of many flows in turn, to fill a queue that nobody reads.
//
//   load fill --to ADDR:PORT --from ADDR,... [--flows N] [--count N] [--bytes N] [--first-port N]
//
// Flow i comes from address i modulo their number; ports count up from --first-port, so that the
// same words make the same flows again. --bytes is the length of the IPv4 packet.
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "load.h"

namespace lab {
namespace {

using namespace traffic;

constexpr int64_t kHeaders = 28;  // IPv4 and UDP

std::vector<int> OpenFlows(const Args& args) {
  const Endpoint to = ParseEndpoint(args.Get("to"));
  const std::vector<std::string> from = Split(args.Get("from"), ',');
  std::vector<int> flows;
  for (int64_t i = 0; i < args.Int("flows", 1); ++i) {
    const auto n = static_cast<int64_t>(from.size());
    const auto port = static_cast<uint16_t>(args.Int("first-port", 20000) + i / n);
    const Endpoint source = MakeEndpoint(from[static_cast<size_t>(i % n)], port);
    const int fd = socket(to.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, source.raw(), source.length) != 0) DieErrno("bind");
    if (connect(fd, to.raw(), to.length) != 0) DieErrno("connect");
    flows.push_back(fd);
  }
  return flows;
}

}  // namespace

int Fill(int argc, char** argv) {
  const Args args(argc, argv, {"to", "from", "flows", "count", "bytes", "first-port"}, {});
  RaiseFileLimit();
  const std::vector<int> flows = OpenFlows(args);
  const std::vector<char> data(static_cast<size_t>(args.Int("bytes", 64) - kHeaders));
  int64_t sent = 0;
  const int64_t count = args.Int("count", 50000);
  for (int64_t i = 0; i < count; ++i) {
    const int fd = flows[static_cast<size_t>(i) % flows.size()];
    if (send(fd, data.data(), data.size(), 0) >= 0) ++sent;
  }
  JsonLine("summary").Add("sent", sent).Print();
  return 0;
}

}  // namespace lab
