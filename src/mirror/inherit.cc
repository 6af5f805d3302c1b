// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/inherit.h"

namespace utproxy {
namespace {

void Set(bool transparent, Socket* socket) {
  // An earlier guess may stand there.
  socket->flags = static_cast<uint16_t>(socket->flags & ~Socket::kTransparent);
  socket->flags |= Socket::kTransparentKnown;
  if (transparent) socket->flags |= Socket::kTransparent;
}

std::optional<bool> KnownByCookie(const SocketTable* table, const Socket& socket) {
  if (table == nullptr || socket.cookie == 0) return std::nullopt;
  absl::InlinedVector<Socket, 8> known;
  table->FindAll(socket.key(), &known);
  for (const Socket& candidate : known) {
    if (candidate.cookie == socket.cookie && candidate.transparent_known()) {
      return candidate.transparent();
    }
  }
  return std::nullopt;
}

}  // namespace

void InheritTransparency(const SocketTable* table, const InterfaceSnapshot& interfaces,
                         const std::optional<Socket>& parent, Socket* socket) {
  if (socket->transparent_known()) return;
  const bool foreign = !socket->local.IsUnspecified() && !interfaces.IsLocal(socket->local);
  if (const std::optional<bool> known = KnownByCookie(table, *socket)) {
    Set(*known, socket);
  } else if (foreign && !socket->request()) {
    Set(true, socket);
  } else if (parent && parent->transparent_known()) {
    Set(parent->transparent(), socket);
  } else if (foreign) {
    socket->flags |= Socket::kTransparent;
  }
}

}  // namespace utproxy
