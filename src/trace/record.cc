// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/record.h"

namespace utproxy {

Decision TraceRecord::decision() const {
  Decision d;
  d.verdict = verdict;
  d.reason = reason;
  d.origin = origin;
  d.trouble = trouble;
  d.mark = mark;
  d.listener_looked_up = looked_up;
  d.laddr = laddr;
  d.lport = lport;
  d.time_wait_cookie = time_wait_cookie;
  d.kill_time_wait = reason == Reason::kTimeWaitReopened && verdict == Verdict::kAccept;
  if (has_socket) d.socket = socket;
  return d;
}

}  // namespace utproxy
