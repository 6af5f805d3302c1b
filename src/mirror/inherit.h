// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_INHERIT_H_
#define UTPROXY_MIRROR_INHERIT_H_

#include <optional>

#include "mirror/interfaces.h"
#include "utproxy/socket.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// Fills in whether a request socket or TIME_WAIT minisocket is transparent, which sock_diag does
// not say. A no-op where it is known. In order:
//   1. the mirror knows the same cookie: a connection keeps its cookie from the first SYN to the
//      end of TIME_WAIT, and transparency with it;
//   2. a minisocket's local address is not one of this host's: only a transparent socket can have
//      it (but for IP_FREEBIND and ip_nonlocal_bind). A request socket's listener may be any
//      wildcard one, so this says little of it;
//   3. the listener it came from, `parent`, where given;
//   4. else a request socket is taken for transparent by 2, and anything else for not transparent.
// Only 1 to 3 leave kTransparentKnown set. `table` may be null. Any thread.
void InheritTransparency(const SocketTable* table, const InterfaceSnapshot& interfaces,
                         const std::optional<Socket>& parent, Socket* socket);

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_INHERIT_H_
