// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_METRICS_SERVER_H_
#define UTPROXY_DAEMON_METRICS_SERVER_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/fd.h"
#include "utproxy/address.h"

struct MHD_Daemon;
struct MHD_Connection;

namespace utproxy {

// Answers GET /metrics over HTTP, on a thread of its own, which gives way to all others. At most
// kMaxConnections at a time, each closed after some seconds without a word; a client that says a
// byte now and then goes where the places run short, the oldest first, so that a new one is always
// let in. The text is made anew once in kFreshNs at most, however often it is asked for.
class MetricsServer {
 public:
  static constexpr unsigned kMaxConnections = 64;
  // Beyond these the oldest is cut off; the rest is for those that arrive meanwhile.
  static constexpr unsigned kKeptConnections = 48;
  static constexpr unsigned kTimeoutSeconds = 5;
  static constexpr int64_t kFreshNs = 200'000'000;

  // Binds the address, in the calling thread's network namespace; clients wait until Serve.
  // `inherited`: the socket of a process that this one goes on for; taken where it is bound so.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Open(const Endpoint& address,
                                                             UniqueFd inherited = UniqueFd());
  // `text` is called from the server's thread. Once.
  absl::Status Serve(std::function<std::string()> text);
  // Cuts all clients off.
  ~MetricsServer();
  int fd() const { return fd_; }
  // Leaves the socket to another process that has it: it stays open for clients. Before the end.
  void Leave();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

 private:
  explicit MetricsServer(UniqueFd listener)
      : listener_(std::move(listener)), fd_(listener_.get()) {}
  static int Answer(void* self, MHD_Connection* connection, const char* url, const char* method);
  void Begin(MHD_Connection* connection);
  void End(MHD_Connection* connection);
  const std::string& Text();

  UniqueFd listener_;
  const int fd_;  // its number, whoever owns it
  std::function<std::string()> make_;
  MHD_Daemon* daemon_ = nullptr;
  // The server's thread's.
  struct Client {
    MHD_Connection* connection;
    int fd;  // the library's, open until End
  };
  std::list<Client> clients_;  // not cut off yet, the oldest first
  std::string text_;
  int64_t made_ns_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_METRICS_SERVER_H_
