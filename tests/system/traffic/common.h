// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_SYSTEM_TRAFFIC_COMMON_H_
#define UTPROXY_TESTS_SYSTEM_TRAFFIC_COMMON_H_

// What the traffic programs share: options, endpoints, reproducible bytes and JSON lines. It
// uses the C library alone, so that a bug in utproxy's own code cannot hide itself here.

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace traffic {

// Prints "traffic: MESSAGE" and ends the process: 2 for wrong usage, 1 for a failed system call.
[[noreturn]] void DieUsage(const std::string& message);
[[noreturn]] void DieErrno(const std::string& what);

// `--name value` pairs and `--name` flags, after the command word. An unknown name ends the
// process.
class Args {
 public:
  Args(int argc, char** argv, const std::set<std::string>& with_value,
       const std::set<std::string>& flags);
  std::string Get(const std::string& name, const std::string& otherwise = "") const;
  int64_t Int(const std::string& name, int64_t otherwise) const;
  bool Flag(const std::string& name) const { return flags_.count(name) != 0; }

 private:
  std::map<std::string, std::string> values_;
  std::set<std::string> flags_;
};

// An address with its port, as the socket calls want it.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;

  sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
};

// "192.0.2.1:80" or "[2001:db8::1]:80"; ends the process where it is neither.
Endpoint ParseEndpoint(const std::string& text);
// The same from an address without brackets and a port in host byte order.
Endpoint MakeEndpoint(const std::string& address, uint16_t port);
// The inverse; a v4-mapped address is written as the IPv4 address it stands for.
std::string FormatEndpoint(const Endpoint& endpoint);
// As FormatEndpoint, of getsockname() or getpeername(); "" where the call fails.
std::string LocalOf(int fd);
std::string PeerOf(int fd);

std::vector<Endpoint> ParseEndpoints(const std::string& comma_separated);
std::vector<std::string> Split(const std::string& text, char separator);

// The listening side's choices, from --family 4|6|dual, --bind, --port, --device, --mark, --opaque
// (no IP_TRANSPARENT) and --reuseport. Binds, and for `type` SOCK_STREAM also listens.
extern const std::set<std::string> kListenValues;
extern const std::set<std::string> kListenFlags;
int OpenListener(const Args& args, int type);

void SetIntOption(int fd, int level, int option, int value, const char* name);
void SetTransparent(int fd, int family);
void SetNonBlocking(int fd);
void RaiseFileLimit();

// Milliseconds of CLOCK_MONOTONIC.
int64_t NowMs();

// Set by SIGTERM and SIGINT once InstallStopSignals() was called.
bool Stopped();
void InstallStopSignals();

// An endless stream of bytes that is a function of its key and the offset alone.
class Pattern {
 public:
  explicit Pattern(uint64_t key) : key_(key) {}
  void Fill(uint64_t offset, uint8_t* out, size_t size) const;
  // Whether `data` is what Fill would write at `offset`.
  bool Matches(uint64_t offset, const uint8_t* data, size_t size) const;

 private:
  uint64_t key_;
};

uint64_t Mix(uint64_t value);

// A size between `low` and `high`, log-uniform for skew 1; a larger skew favours small ones.
uint64_t PickSize(uint64_t random, uint64_t low, uint64_t high, double skew);

// One JSON object on one line of standard output, flushed when it is sent.
class JsonLine {
 public:
  explicit JsonLine(const std::string& event) { Add("event", event); }
  JsonLine& Add(const std::string& key, const std::string& value);
  JsonLine& Add(const std::string& key, const char* value) { return Add(key, std::string(value)); }
  JsonLine& Add(const std::string& key, int64_t value);
  JsonLine& Add(const std::string& key, bool value);
  JsonLine& Add(const std::string& key, const std::map<std::string, int64_t>& counts);
  void Print();

 private:
  void Key(const std::string& key);
  std::string body_;
};

// The head of a TCP stream and of a datagram; both ends run on one machine, so host byte order.
struct Head {
  uint64_t magic = 0;
  uint64_t key = 0;
  uint64_t up = 0;     // TCP: bytes from client to listener after the head. UDP: sequence number
  uint64_t down = 0;   // TCP: bytes back before the trailer. UDP: size of the whole datagram
  uint64_t flags = 0;  // kPeerCloses
};
inline constexpr uint64_t kTcpMagic = 0x7574'7072'6f78'7901;
inline constexpr uint64_t kUdpAsk = 0x7574'7072'6f78'7902;
inline constexpr uint64_t kUdpAnswer = 0x7574'7072'6f78'7903;
inline constexpr uint64_t kPeerCloses = 1;  // the listener ends the connection first
inline constexpr uint64_t kDownKey = 0x9e37'79b9'7f4a'7c15;

// What the listener says after the last byte: whether it found every byte as it should be.
struct Trailer {
  uint64_t good = 0;
  uint64_t received = 0;
};

int TcpListen(int argc, char** argv);
int TcpClient(int argc, char** argv);
int UdpListen(int argc, char** argv);
int UdpClient(int argc, char** argv);
int SendFlood(int argc, char** argv);

}  // namespace traffic

#endif  // UTPROXY_TESTS_SYSTEM_TRAFFIC_COMMON_H_
