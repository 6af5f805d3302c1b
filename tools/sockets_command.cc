// SPDX-License-Identifier: GPL-3.0-or-later
#include <memory>
#include <ostream>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/control_client.h"
#include "daemon/daemon.h"
#include "daemon/snapshot.h"
#include "diagnose/socket_owner.h"
#include "mirror/inherit.h"
#include "mirror/interfaces.h"
#include "netlink/diag_client.h"
#include "text.h"

namespace utproxy::tools {
namespace {

std::string TransparentText(const Json& transparent) {
  if (transparent.is_null()) return "?";
  return transparent.get<bool>() ? "yes" : "no";
}

class SocketsCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Flag("--json", "one JSON object a socket: a snapshot that replay reads", &json_, "-j");
    options.Flag("--interfaces", "the interfaces too, with their primary addresses (with -j)",
                 &interfaces_);
    options.Flag("--exact", "ask the kernel rather than the daemon's mirror", &exact_);
    options.Value("--control", "PATH", "the daemon's control socket",
                  [this](absl::string_view path) {
                    control_ = std::string(path);
                    return absl::OkStatus();
                  });
  }

  absl::Status Check() override {
    if (interfaces_ && !json_) return UsageError("--interfaces: goes with --json");
    return absl::OkStatus();
  }

  absl::StatusOr<int> Run(Environment& env) override {
    TextTable table({"proto", "state", "local", "peer", "iif", "transparent", "mark", "process"});
    const auto take = [&](const Json& socket) {
      if (json_) {
        env.out << JsonLine(socket) << "\n";
      } else {
        AddRow(socket, &table);
      }
    };
    if (exact_) {
      RETURN_IF_ERROR(Exact(interfaces_, take));
    } else {
      RETURN_IF_ERROR(
          AskDaemon(control_, {{"command", "sockets"}, {"interfaces", interfaces_}}, take));
    }
    if (!json_) env.out << table.ToString(env.color());
    return kExitOk;
  }

 private:
  static void AddRow(const Json& s, TextTable* table) {
    const auto text = [&](const char* key) { return s.at(key).get<std::string>(); };
    std::string process;
    if (s.contains("comm")) {
      process = text("comm") + "[" + std::to_string(s.at("pid").get<int>()) + "]";
    }
    table->Add({text("proto"), text("state"), text("local"), text("peer"), text("iif"),
                TransparentText(s.at("transparent")), text("so_mark"), process});
  }

  static absl::Status Exact(bool with_interfaces, const std::function<void(const Json&)>& take) {
    ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
    ASSIGN_OR_RETURN(const auto interfaces, ReadInterfaces());
    if (with_interfaces) {
      for (const Json& json : InterfacesJson(*interfaces)) take(json);
    }
    const auto owners = ReadSocketOwners();
    for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
      for (const Family family : {Family::kIpv4, Family::kIpv6}) {
        RETURN_IF_ERROR(client.Dump(family, proto, kAllStates, [&](Socket socket) {
          InheritTransparency(nullptr, *interfaces, std::nullopt, &socket);
          std::optional<SocketOwner> owner;
          const auto it = owners.find(socket.inode);
          if (it != owners.end() && socket.inode != 0) owner = it->second;
          take(ToJson(socket, SystemInterfaceName, owner));
        }));
      }
    }
    return absl::OkStatus();
  }

  std::string control_ = kDefaultControlPath;
  bool json_ = false;
  bool exact_ = false;
  bool interfaces_ = false;
};

}  // namespace

CommandEntry SocketsEntry() {
  return {"sockets", "the daemon's mirror of the kernel's sockets, or the kernel's own",
          "Lists the TCP and UDP sockets of this network namespace that a decision can come to, "
          "as the running daemon knows them, or with --exact as the kernel tells now.",
          "utproxy sockets --exact -j",
          [] { return std::unique_ptr<Command>(new SocketsCommand); }};
}

}  // namespace utproxy::tools
