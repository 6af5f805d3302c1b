// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/metrics_server.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/status.h"

namespace utproxy {
namespace {

constexpr int kBacklog = 64;
constexpr int kNice = 10;

// Returns the address's length.
socklen_t ToSocketAddress(const Endpoint& to, sockaddr_storage* storage) {
  if (to.family == Family::kIpv4) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(to.port);
    std::memcpy(&v4->sin_addr, to.address.bytes().data() + 12, 4);
    return sizeof *v4;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(storage);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(to.port);
  std::memcpy(&v6->sin6_addr, to.address.bytes().data(), 16);
  return sizeof *v6;
}

absl::Status BindTo(int fd, const Endpoint& to) {
  sockaddr_storage storage{};
  const socklen_t length = ToSocketAddress(to, &storage);
  const int on = 1;
  (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&storage), length) == 0 &&
      ::listen(fd, kBacklog) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(
      errno, absl::StrCat("serve metrics at ", EndpointToString(to.address, to.port, to.family)));
}

bool IsBoundTo(int fd, const Endpoint& to) {
  sockaddr_storage wanted{}, bound{};
  const socklen_t length = ToSocketAddress(to, &wanted);
  socklen_t size = sizeof bound;
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) == 0 && size == length &&
         std::memcmp(&wanted, &bound, length) == 0;
}

void GiveWay() {
  const auto self = static_cast<id_t>(::syscall(SYS_gettid));
  if (::getpriority(PRIO_PROCESS, self) < kNice) (void)::setpriority(PRIO_PROCESS, self, kNice);
}

// `text` is copied.
MHD_Result Respond(MHD_Connection* connection, unsigned status, const std::string& text,
                   const char* type) {
  MHD_Response* response = MHD_create_response_from_buffer(
      text.size(), const_cast<char*>(text.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  (void)MHD_add_response_header(response, "Content-Type", type);
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED) {
    (void)MHD_add_response_header(response, "Allow", "GET, HEAD");
  }
  const MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Open(const Endpoint& address,
                                                                   UniqueFd inherited) {
  if (inherited.valid() && IsBoundTo(inherited.get(), address)) {
    return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(inherited)));
  }
  inherited.reset();
  const int family = address.family == Family::kIpv4 ? AF_INET : AF_INET6;
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "open a socket for metrics");
  RETURN_IF_ERROR(BindTo(fd.get(), address));
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(fd)));
}

absl::Status MetricsServer::Serve(std::function<std::string()> text) {
  make_ = std::move(text);
  const MHD_AccessHandlerCallback answer = [](void* self, MHD_Connection* connection,
                                              const char* url, const char* method, const char*,
                                              const char*, size_t*, void**) {
    return static_cast<MHD_Result>(Answer(self, connection, url, method));
  };
  const MHD_NotifyConnectionCallback notify = [](void* self, MHD_Connection* connection, void**,
                                                 MHD_ConnectionNotificationCode what) {
    auto* server = static_cast<MetricsServer*>(self);
    what == MHD_CONNECTION_NOTIFY_STARTED ? server->Begin(connection) : server->End(connection);
  };
  // From here on the socket is the library's. MHD_USE_ITC: without it the library wakes its thread
  // by a shutdown of the socket, which another process may have by then (Leave).
  daemon_ = MHD_start_daemon(
      MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ITC, 0, nullptr, nullptr, answer,
      this, MHD_OPTION_LISTEN_SOCKET, listener_.get(), MHD_OPTION_CONNECTION_LIMIT, kMaxConnections,
      MHD_OPTION_CONNECTION_TIMEOUT, kTimeoutSeconds, MHD_OPTION_NOTIFY_CONNECTION, notify, this,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, size_t{16384}, MHD_OPTION_END);
  if (daemon_ == nullptr) return absl::InternalError("serve metrics: the server did not start");
  (void)listener_.release();
  return absl::OkStatus();
}

MetricsServer::~MetricsServer() {
  if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
}

// A shutdown would be all its owners'.
void MetricsServer::Leave() {
  if (daemon_ != nullptr) listener_.reset(MHD_quiesce_daemon(daemon_));
}

// The library's timeout begins anew with each byte, so a client could keep its place for ever. It
// accepts no one while all places are taken: hence some are made free before. It notices the
// shutdown in its next round, and closes the descriptor itself.
void MetricsServer::Begin(MHD_Connection* connection) {
  const MHD_ConnectionInfo* info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  if (info == nullptr) return;
  clients_.push_back({connection, info->connect_fd});
  if (clients_.size() <= kKeptConnections) return;
  (void)::shutdown(clients_.front().fd, SHUT_RDWR);
  clients_.pop_front();
}

void MetricsServer::End(MHD_Connection* connection) {
  clients_.remove_if([=](const Client& client) { return client.connection == connection; });
}

int MetricsServer::Answer(void* self, MHD_Connection* connection, const char* url,
                          const char* method) {
  static constexpr char kPlain[] = "text/plain; charset=utf-8";
  GiveWay();
  if (std::strcmp(method, "GET") != 0 && std::strcmp(method, "HEAD") != 0) {
    return Respond(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET /metrics\n", kPlain);
  }
  if (std::strcmp(url, "/metrics") != 0) {
    return Respond(connection, MHD_HTTP_NOT_FOUND, "GET /metrics\n", kPlain);
  }
  return Respond(connection, MHD_HTTP_OK, static_cast<MetricsServer*>(self)->Text(),
                 "text/plain; version=0.0.4; charset=utf-8");
}

const std::string& MetricsServer::Text() {
  if (made_ns_ == 0 || MonotonicNs() - made_ns_ > kFreshNs) {
    text_ = make_();
    made_ns_ = MonotonicNs();
  }
  return text_;
}

}  // namespace utproxy
