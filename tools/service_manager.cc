// SPDX-License-Identifier: GPL-3.0-or-later
#include "service_manager.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace utproxy::tools {

ServiceManager::ServiceManager() {
  uint64_t us = 0;
  if (::sd_watchdog_enabled(0, &us) > 0) {
    watchdog_ns_ = static_cast<int64_t>(std::min<uint64_t>(us, INT64_MAX / 1000) * 1000);
  }
}

void ServiceManager::Ready(const std::string& status) const {
  (void)::sd_notifyf(0, "READY=1\nSTATUS=%s", status.c_str());
}

void ServiceManager::Reloading() const {
  (void)::sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld",
                     static_cast<long long>(MonotonicNs() / 1000));
}

void ServiceManager::Stopping() const { (void)::sd_notify(0, "STOPPING=1"); }

void ServiceManager::Status(const std::string& status) const {
  (void)::sd_notifyf(0, "STATUS=%s", status.c_str());
}

std::vector<std::string> ServiceManager::Watch(const std::vector<Beat>& beats, int64_t now_ns) {
  progress_.Look(beats, now_ns);
  std::vector<std::string> stuck = progress_.Stuck(now_ns, watchdog_ns_ / 2);
  if (stuck.empty()) (void)::sd_notify(0, "WATCHDOG=1");
  std::vector<std::string> fresh;
  for (const std::string& name : stuck) {
    if (std::find(stuck_.begin(), stuck_.end(), name) == stuck_.end()) fresh.push_back(name);
  }
  stuck_ = std::move(stuck);
  return fresh;
}

}  // namespace utproxy::tools
