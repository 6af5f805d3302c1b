// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_CONTROL_SERVER_H_
#define UTPROXY_DAEMON_CONTROL_SERVER_H_

#include <absl/status/statusor.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "base/fd.h"
#include "daemon/control_socket.h"
#include "daemon/json.h"

namespace utproxy {

// Who may ask at the control socket: root and `user` everything, members of `group` what changes
// nothing, nobody else. The socket file is theirs.
struct ControlAccess {
  uid_t user = 0;
  gid_t group = 0;
};

// The daemon's control socket: a Unix stream socket, mode 0660. Who connects is told by the kernel
// (SO_PEERCRED), so the file's mode is not all that keeps others out; whom it lets in without the
// right is refused at once, and costs no thread. A client sends one line, a JSON
// object {"command": NAME, ...}, and reads lines of JSON: first {"begin": true}, at once, and last
// {"end": true}: an answer without it was cut short.
//
// Each client has a thread of its own, up to kMaxClients; the next ones wait a second, and are then
// told {"error": ...}, as is who comes while they are told. Members of the group may have
// kMaxReaders of them, so that there is room for root. A client has two
// seconds for its whole request, and is cut off where it reads nothing for ten. Neither delays
// another client below that number, the end of the server, or packets.
class ControlServer {
 public:
  static constexpr size_t kMaxRequestBytes = 4096;
  static constexpr size_t kMaxClients = 16;
  static constexpr size_t kMaxReaders = 12;

  // Answers a request: calls `write` once for every object of the answer, and stops early where it
  // returns false (the client has gone). An error becomes the object {"error": "..."}. Called from
  // several threads at once.
  class Writer {
   public:
    // Both descriptors outlive it: the client's, and one that is readable once the server ends.
    Writer(int client, int stop, bool trusted) : client_(client), stop_(stop), trusted_(trusted) {}
    // Whether the client is root or the daemon's own user. Others may only read.
    bool trusted() const { return trusted_; }
    // For what is more than an answer: both descriptors stay the server's.
    int client() const { return client_; }
    int stop() const { return stop_; }
    bool operator()(const Json& json) const;
    // Whole lines, each an object, for streams: waits for a client that does not read, however
    // long that takes.
    bool Lines(absl::string_view lines) const;
    // Passes `ms` milliseconds. False at once where the client has gone or the server ends.
    bool Wait(int ms) const;

   private:
    int client_;
    int stop_;
    bool trusted_;
  };
  using Handler = std::function<absl::Status(const Json& request, const Writer& write)>;

  // Binds `path`, whose folder is made where it is missing; a socket file that nobody listens on
  // is replaced, one that answers is an error. Clients wait until Serve() is called.
  // A folder that is made is `access.user`'s, so that the file can be removed.
  // `inherited`: the socket of a process that this one goes on for; taken where it is bound there.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Open(const std::string& path,
                                                             const ControlAccess& access,
                                                             UniqueFd inherited = UniqueFd());
  // Starts serving; once.
  void Serve(Handler handler);
  // Cuts all clients off, ends the threads and removes the socket file.
  ~ControlServer();
  // Leaves the socket file to another process that has the socket. Before the end.
  void Leave() { path_.clear(); }
  int fd() const { return listener_.get(); }
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  ControlServer(std::string path, const ControlAccess& access, UniqueFd listener, UniqueFd stop)
      : path_(std::move(path)),
        access_(access),
        listener_(std::move(listener)),
        stop_(std::move(stop)) {}
  struct Client {
    std::thread thread;
    bool trusted = false;
    std::atomic<bool> done{false};
  };
  void Loop();
  void Accept();
  void Refuse(int fd, const std::string& why) const;
  void RefuseWhoWaited();
  void ReapClients();
  bool RoomFor(bool trusted) const;
  void ServeClient(int fd, bool trusted);

  std::string path_;  // empty: not to be removed
  const ControlAccess access_;
  UniqueFd listener_;
  UniqueFd stop_;
  Handler handler_;
  std::list<Client> clients_;  // the accepting thread's
  int64_t full_ns_ = 0;        // the same: since when somebody waits for room; 0: nobody does
  std::thread thread_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_CONTROL_SERVER_H_
