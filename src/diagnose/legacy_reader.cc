// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/legacy_reader.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
#include <net/if.h>      // before the tables' headers
// clang-format on

#include <absl/strings/str_split.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <sys/socket.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/fd.h"

namespace utproxy {
namespace {

constexpr socklen_t kMaxTable = 256u << 20;  // bytes

std::vector<std::string> TableNames(bool v6) {
  std::ifstream file(v6 ? "/proc/net/ip6_tables_names" : "/proc/net/ip_tables_names");
  std::stringstream text;
  text << file.rdbuf();
  return absl::StrSplit(text.str(), '\n', absl::SkipEmpty());
}

template <typename Info, typename Entries>
bool ReadTable(int fd, int level, int get_info, int get_entries, LegacyTable* table,
               std::vector<uint8_t>* out) {
  Info info{};
  if (table->name.size() >= sizeof info.name) return false;
  std::memcpy(info.name, table->name.c_str(), table->name.size() + 1);
  socklen_t size = sizeof info;
  if (getsockopt(fd, level, get_info, &info, &size) != 0 || info.size > kMaxTable) return false;
  std::vector<uint8_t> buffer(sizeof(Entries) + info.size);
  Entries header{};
  std::memcpy(header.name, info.name, sizeof header.name);
  header.size = info.size;
  std::memcpy(buffer.data(), &header, sizeof header);
  size = static_cast<socklen_t>(buffer.size());
  // EAGAIN where it changed in between.
  if (getsockopt(fd, level, get_entries, buffer.data(), &size) != 0) return false;
  table->hooks = info.valid_hooks;
  std::memcpy(table->hook_entry, info.hook_entry, sizeof table->hook_entry);
  std::memcpy(table->underflow, info.underflow, sizeof table->underflow);
  out->assign(buffer.begin() + sizeof(Entries), buffer.end());
  return true;
}

bool ReadTable(int fd, LegacyTable* table, std::vector<uint8_t>* out) {
  return table->v6 ? ReadTable<ip6t_getinfo, ip6t_get_entries>(fd, IPPROTO_IPV6, IP6T_SO_GET_INFO,
                                                               IP6T_SO_GET_ENTRIES, table, out)
                   : ReadTable<ipt_getinfo, ipt_get_entries>(fd, IPPROTO_IP, IPT_SO_GET_INFO,
                                                             IPT_SO_GET_ENTRIES, table, out);
}

}  // namespace

bool ReadLegacyTables(RulesetFacts* facts) {
  bool all = true;
  for (const bool v6 : {false, true}) {
    const std::vector<std::string> names = TableNames(v6);
    if (names.empty()) continue;
    const UniqueFd fd(socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
    for (const std::string& name : names) {
      LegacyTable table;
      table.v6 = v6;
      table.name = name;
      std::vector<uint8_t> entries;
      bool read = false;
      for (int tries = 0; tries < 3 && !read; ++tries) read = ReadTable(fd.get(), &table, &entries);
      all = all && read;
      if (read) DecodeLegacyTable(table, entries, facts);
    }
  }
  return all;
}

}  // namespace utproxy
