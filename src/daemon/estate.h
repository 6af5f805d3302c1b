// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_ESTATE_H_
#define UTPROXY_DAEMON_ESTATE_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

// What outlives a daemon where the next one is to go on for it: descriptors, by name. Packets wait
// in the queues' sockets, rules are bound to another one's life, and flows are led by BPF objects,
// for as long as somebody has them: the next daemon, to which they are passed over the control
// socket (predecessor.h), or the service manager (FDSTORE=1 of sd_notify(3)) meanwhile.
//
//   queue-N                           the netlink socket that queue N is bound to
//   rules                             the one that the nftables table is bound to
//   link, flows, listeners, counters  the sk_lookup program's place, and its maps
//   control, metrics                  the listening sockets
//   words                             the configuration that all of these are of (WordsFile)
namespace utproxy {

// Borrowed: the daemon's own.
using Belongings = std::vector<std::pair<std::string, int>>;

class Estate {
 public:
  void Add(std::string name, UniqueFd fd) { fds_.insert_or_assign(std::move(name), std::move(fd)); }
  bool empty() const { return fds_.empty(); }
  bool Has(const std::string& name) const { return fds_.contains(name); }
  // None where there is none of this name (any more).
  UniqueFd Take(const std::string& name);
  // What the configuration was: the text of the WordsFile; empty where there is none.
  std::string Words() const;

 private:
  std::map<std::string, UniqueFd> fds_;
};

// A text in memory that its descriptor leads to, for who starts a daemon to say of what
// configuration it is. The daemon does not read it.
class WordsFile {
 public:
  static constexpr size_t kMaxBytes = size_t{4} << 20;

  // Opens one, or goes on with another daemon's, which Write() writes over.
  static absl::StatusOr<WordsFile> Open(UniqueFd inherited);
  // Its beginning is written last: who reads it after a crash meanwhile may find a text that makes
  // no sense, but no descriptor of nothing.
  absl::Status Write(const std::string& text);
  int fd() const { return fd_.get(); }
  // Empty where it is damaged.
  static std::string Read(int fd);

 private:
  explicit WordsFile(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

std::string QueueName(uint16_t number);  // "queue-7"

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_ESTATE_H_
