// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_METRICS_TEXT_H_
#define UTPROXY_DAEMON_METRICS_TEXT_H_

#include <string>

#include "daemon/json.h"

namespace utproxy {

// The object of `utproxy stats -j` in Prometheus' text format, version 0.0.4. Labels are targets,
// queues and words of utproxy's own, so there are as many series as the configuration makes.
std::string MetricsText(const Json& stats);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_METRICS_TEXT_H_
