// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_SERVICE_MANAGER_H_
#define UTPROXY_TOOLS_SERVICE_MANAGER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/estate.h"
#include "daemon/progress.h"

namespace utproxy::tools {

// What is told to systemd, or whoever else reads NOTIFY_SOCKET (sd_notify(3)); nothing where nobody
// does. One thread.
class ServiceManager {
 public:
  // Reads WATCHDOG_USEC, LISTEN_FDS and LISTEN_FDNAMES. Before the process opens anything.
  ServiceManager();

  void Ready(const std::string& status) const;
  // Before a reload, which Ready() ends.
  void Reloading() const;
  void Stopping() const;
  void Status(const std::string& status) const;

  // What it has kept of the daemon before, which left it or was killed; once. Empty where there is
  // nothing. What LISTEN_FDNAMES names but was not open when this object was made is left out, and
  // said in `*warnings`: its number may be a descriptor of this process's own by now.
  Estate Inherited(std::vector<std::string>* warnings);
  // Has it keep these (FDSTORE=1; it does where FileDescriptorStoreMax= allows it), and nothing
  // else any more.
  void Keep(const Belongings& belongings);
  // Whether there is one that may keep something.
  bool keeps() const { return keeps_; }

  // How often Watch() is to be called; 0 where nobody wants it to be.
  int64_t watch_every_ns() const { return watchdog_ns_ / 4; }
  // Says that the daemon is alive, but only where all threads have made progress within half of
  // the time after which the service manager ends it. Returns those that have newly got stuck.
  std::vector<std::string> Watch(const std::vector<Beat>& beats, int64_t now_ns);

 private:
  static void Forget(const std::string& name);

  struct Passed {
    std::string name;
    int fd;
    bool open;
  };
  static std::vector<Passed> PassedToThis();

  std::vector<Passed> passed_;
  int64_t watchdog_ns_ = 0;
  bool keeps_ = false;
  std::map<std::string, bool> kept_;  // by name; false: for the process before
  Progress progress_;
  std::vector<std::string> stuck_;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_SERVICE_MANAGER_H_
