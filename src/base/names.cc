// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/decision.h"
#include "utproxy/socket.h"

namespace utproxy {

const char* SockStateName(SockState state, Proto proto) {
  if (proto == Proto::kUdp) return state == SockState::kEstablished ? "CONNECTED" : "UNCONNECTED";
  switch (state) {
    case SockState::kEstablished:
      return "ESTABLISHED";
    case SockState::kSynSent:
      return "SYN_SENT";
    case SockState::kSynRecv:
      return "SYN_RECV";
    case SockState::kFinWait1:
      return "FIN_WAIT1";
    case SockState::kFinWait2:
      return "FIN_WAIT2";
    case SockState::kTimeWait:
      return "TIME_WAIT";
    case SockState::kClose:
      return "CLOSE";
    case SockState::kCloseWait:
      return "CLOSE_WAIT";
    case SockState::kLastAck:
      return "LAST_ACK";
    case SockState::kListen:
      return "LISTEN";
    case SockState::kClosing:
      return "CLOSING";
    case SockState::kNewSynRecv:
      return "NEW_SYN_RECV";
  }
  return "UNKNOWN";
}

const char* VerdictName(Verdict verdict) { return verdict == Verdict::kAccept ? "accept" : "drop"; }

const char* OriginName(Origin origin) { return origin == Origin::kExact ? "exact" : "mirror"; }

const char* ReasonName(Reason reason) {
  switch (reason) {
    case Reason::kEstablished:
      return "established";
    case Reason::kTimeWait:
      return "time_wait";
    case Reason::kTimeWaitReopened:
      return "time_wait_reopened";
    case Reason::kListener:
      return "listener";
    case Reason::kNoSocket:
      return "no_socket";
    case Reason::kNotTransparent:
      return "not_transparent";
    case Reason::kHeaderTruncated:
      return "header_truncated";
    case Reason::kFragment:
      return "fragment";
    case Reason::kNotTcpOrUdp:
      return "not_tcp_or_udp";
  }
  return "unknown";
}

}  // namespace utproxy
