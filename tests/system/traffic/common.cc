// SPDX-License-Identifier: GPL-3.0-or-later
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75
#endif

namespace traffic {

namespace {
volatile std::sig_atomic_t stop_requested = 0;
void RequestStop(int) { stop_requested = 1; }
}  // namespace

void DieUsage(const std::string& message) {
  std::fprintf(stderr, "traffic: %s\n", message.c_str());
  std::exit(2);
}

void DieErrno(const std::string& what) {
  std::fprintf(stderr, "traffic: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

Args::Args(int argc, char** argv, const std::set<std::string>& with_value,
           const std::set<std::string>& flags) {
  for (int i = 2; i < argc; ++i) {
    std::string word = argv[i];
    std::string name = word.rfind("--", 0) == 0 ? word.substr(2) : "";
    if (flags.count(name) != 0) {
      flags_.insert(name);
    } else if (with_value.count(name) != 0 && i + 1 < argc) {
      values_[name] = argv[++i];
    } else {
      DieUsage("unknown or incomplete option " + word);
    }
  }
}

std::string Args::Get(const std::string& name, const std::string& otherwise) const {
  auto found = values_.find(name);
  return found == values_.end() ? otherwise : found->second;
}

int64_t Args::Int(const std::string& name, int64_t otherwise) const {
  std::string text = Get(name);
  if (text.empty()) return otherwise;
  char* end = nullptr;
  errno = 0;
  int64_t value = std::strtoll(text.c_str(), &end, 0);
  if (errno != 0 || *end != '\0') DieUsage("--" + name + ": not a number: " + text);
  return value;
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (start <= text.size() && !text.empty()) {
    size_t end = std::min(text.find(separator, start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

Endpoint MakeEndpoint(const std::string& address, uint16_t port) {
  Endpoint endpoint;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&endpoint.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&endpoint.storage);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    endpoint.length = sizeof(*v4);
    return endpoint;
  }
  if (inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) != 1) {
    DieUsage("not an address: " + address);
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  endpoint.length = sizeof(*v6);
  return endpoint;
}

Endpoint ParseEndpoint(const std::string& text) {
  size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) DieUsage("not ADDRESS:PORT: " + text);
  std::string address = text.substr(0, colon);
  if (address.front() == '[' && address.back() == ']') {
    address = address.substr(1, address.size() - 2);
  }
  int port = std::atoi(text.c_str() + colon + 1);
  if (port < 0 || port > 65535) DieUsage("not a port: " + text);
  return MakeEndpoint(address, static_cast<uint16_t>(port));
}

std::vector<Endpoint> ParseEndpoints(const std::string& comma_separated) {
  std::vector<Endpoint> endpoints;
  for (const std::string& part : Split(comma_separated, ',')) {
    endpoints.push_back(ParseEndpoint(part));
  }
  return endpoints;
}

std::string FormatEndpoint(const Endpoint& endpoint) {
  char text[INET6_ADDRSTRLEN] = "";
  if (endpoint.family() == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&endpoint.storage);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    return std::string(text) + ":" + std::to_string(ntohs(v4->sin_port));
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&endpoint.storage);
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
    inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
    return std::string(text) + ":" + std::to_string(ntohs(v6->sin6_port));
  }
  inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6->sin6_port));
}

std::string LocalOf(int fd) {
  Endpoint endpoint;
  endpoint.length = sizeof(endpoint.storage);
  if (getsockname(fd, endpoint.raw(), &endpoint.length) != 0) return "";
  return FormatEndpoint(endpoint);
}

std::string PeerOf(int fd) {
  Endpoint endpoint;
  endpoint.length = sizeof(endpoint.storage);
  if (getpeername(fd, endpoint.raw(), &endpoint.length) != 0) return "";
  return FormatEndpoint(endpoint);
}

void SetIntOption(int fd, int level, int option, int value, const char* name) {
  if (setsockopt(fd, level, option, &value, sizeof(value)) != 0) DieErrno(name);
}

void SetTransparent(int fd, int family) {
  if (family == AF_INET) {
    SetIntOption(fd, IPPROTO_IP, IP_TRANSPARENT, 1, "IP_TRANSPARENT");
  } else {
    SetIntOption(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1, "IPV6_TRANSPARENT");
  }
}

void SetNonBlocking(int fd) {
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) DieErrno("O_NONBLOCK");
}

const std::set<std::string> kListenValues = {"family", "bind",    "port",   "device",
                                             "mark",   "backlog", "seconds"};
const std::set<std::string> kListenFlags = {"opaque", "reuseport"};

int OpenListener(const Args& args, int type) {
  std::string family_name = args.Get("family", "4");
  int family = family_name == "4" ? AF_INET : AF_INET6;
  int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) DieErrno("socket");
  if (family == AF_INET6) {
    SetIntOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, family_name == "6" ? 1 : 0, "IPV6_V6ONLY");
  }
  SetIntOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
  if (args.Flag("reuseport")) SetIntOption(fd, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT");
  if (!args.Flag("opaque")) SetTransparent(fd, family);
  int mark = static_cast<int>(args.Int("mark", 0));
  if (mark != 0) SetIntOption(fd, SOL_SOCKET, SO_MARK, mark, "SO_MARK");
  std::string device = args.Get("device");
  if (!device.empty() && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device.c_str(),
                                    static_cast<socklen_t>(device.size() + 1)) != 0) {
    DieErrno("SO_BINDTODEVICE");
  }
  Endpoint bound = MakeEndpoint(args.Get("bind", family == AF_INET ? "0.0.0.0" : "::"),
                                static_cast<uint16_t>(args.Int("port", 0)));
  if (bound.family() != family) DieUsage("--bind: the address is not of the family");
  if (bind(fd, bound.raw(), bound.length) != 0) DieErrno("bind " + FormatEndpoint(bound));
  if (type == SOCK_STREAM && listen(fd, static_cast<int>(args.Int("backlog", 4096))) != 0) {
    DieErrno("listen");
  }
  return fd;
}

void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 65536);
  setrlimit(RLIMIT_NOFILE, &limit);
}

int64_t NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

bool Stopped() { return stop_requested != 0; }

void InstallStopSignals() {
  struct sigaction action {};
  action.sa_handler = RequestStop;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

uint64_t Mix(uint64_t value) {
  value += 0x9e37'79b9'7f4a'7c15;
  value = (value ^ (value >> 30)) * 0xbf58'476d'1ce4'e5b9;
  value = (value ^ (value >> 27)) * 0x94d0'49bb'1331'11eb;
  return value ^ (value >> 31);
}

void Pattern::Fill(uint64_t offset, uint8_t* out, size_t size) const {
  while (size > 0) {
    uint64_t block = Mix(key_ + offset / 8);
    size_t skip = offset % 8;
    size_t part = std::min(size, size_t{8} - skip);
    std::memcpy(out, reinterpret_cast<const uint8_t*>(&block) + skip, part);
    out += part;
    offset += part;
    size -= part;
  }
}

bool Pattern::Matches(uint64_t offset, const uint8_t* data, size_t size) const {
  uint8_t expected[4096];
  while (size > 0) {
    size_t part = std::min(size, sizeof(expected));
    Fill(offset, expected, part);
    if (std::memcmp(expected, data, part) != 0) return false;
    data += part;
    offset += part;
    size -= part;
  }
  return true;
}

uint64_t PickSize(uint64_t random, uint64_t low, uint64_t high, double skew) {
  double unit = static_cast<double>(Mix(random) >> 11) / 9007199254740992.0;
  double ratio = static_cast<double>(high) / static_cast<double>(std::max<uint64_t>(low, 1));
  return static_cast<uint64_t>(static_cast<double>(low) * std::pow(ratio, std::pow(unit, skew)));
}

void JsonLine::Key(const std::string& key) {
  body_ += (body_.empty() ? "\"" : ", \"") + key + "\": ";
}

JsonLine& JsonLine::Add(const std::string& key, const std::string& value) {
  Key(key);
  body_ += '"';
  for (char c : value) {
    if (c == '"' || c == '\\') body_ += '\\';
    body_ += c;
  }
  body_ += '"';
  return *this;
}

JsonLine& JsonLine::Add(const std::string& key, int64_t value) {
  Key(key);
  body_ += std::to_string(value);
  return *this;
}

JsonLine& JsonLine::Add(const std::string& key, bool value) {
  Key(key);
  body_ += value ? "true" : "false";
  return *this;
}

JsonLine& JsonLine::Add(const std::string& key, const std::map<std::string, int64_t>& counts) {
  Key(key);
  body_ += '{';
  bool first = true;
  for (const auto& [name, count] : counts) {
    body_ += (first ? "\"" : ", \"") + name + "\": " + std::to_string(count);
    first = false;
  }
  body_ += '}';
  return *this;
}

void JsonLine::Print() {
  std::printf("{%s}\n", body_.c_str());
  std::fflush(stdout);
}

}  // namespace traffic
