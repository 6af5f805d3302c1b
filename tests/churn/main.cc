// SPDX-License-Identifier: GPL-3.0-or-later
// Changes a router's sockets thousands of times a second while packets go through a queue that
// utproxy decides, and compares each decision with what the kernel could have made at that time.
// tests/churn/churn.py sets up what it needs, and says what it prints.
#include <absl/strings/numbers.h>
#include <fcntl.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "churn/driver.h"
#include "churn/idle.h"

namespace {

using utproxy::churn::DriverOptions;
using Json = nlohmann::ordered_json;

volatile std::sig_atomic_t stop = 0;
void RequestStop(int signal) { stop = signal; }

struct Options {
  DriverOptions driver;
  std::string client_netns;
  utproxy::churn::Addresses addresses;
  size_t idle_tcp = 0, idle_udp = 0;
};

[[noreturn]] void Usage(const std::string& what) {
  std::fprintf(stderr, "churn: %s\n", what.c_str());
  std::exit(2);
}

double Number(const std::string& name, const std::string& text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || value < 0) Usage(name + ": not a number: " + text);
  return value;
}

// "V4,V6"
void TakePair(const std::string& name, const std::string& text, utproxy::Address* pair) {
  const size_t comma = text.find(',');
  const auto v4 = utproxy::Address::Parse(text.substr(0, comma));
  const auto v6 = utproxy::Address::Parse(comma < text.size() ? text.substr(comma + 1) : "");
  if (!v4 || !v6) Usage(name + ": not IPV4,IPV6: " + text);
  pair[0] = *v4;
  pair[1] = *v6;
}

void Take(const std::string& name, const std::string& value, Options* options) {
  DriverOptions& driver = options->driver;
  if (name == "--client-netns") return void(options->client_netns = value);
  if (name == "--client") return TakePair(name, value, options->addresses.client);
  if (name == "--interface") return TakePair(name, value, options->addresses.interface);
  if (name == "--asked") return TakePair(name, value, options->addresses.asked);
  const double number = Number(name, value);
  if (name == "--seconds") return void(driver.seconds = number);
  if (name == "--changes") return void(driver.changes_per_second = static_cast<int>(number));
  if (name == "--packets") return void(driver.packets_per_second = static_cast<int>(number));
  if (name == "--first-port") return void(driver.first_port = static_cast<uint16_t>(number));
  if (name == "--late-ms") return void(driver.late_ms = static_cast<int>(number));
  if (name == "--self-test") return void(driver.self_test = number);
  if (name == "--idle") return void(options->idle_tcp = static_cast<size_t>(number));
  if (name == "--idle-udp") return void(options->idle_udp = static_cast<size_t>(number));
  Usage("unknown option " + name);
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--progress") {
      options.driver.progress = true;
      continue;
    }
    if (i + 1 == argc) Usage("incomplete option " + name);
    Take(name, argv[++i], &options);
  }
  if (options.driver.changes_per_second <= 0 || options.driver.packets_per_second <= 0) {
    Usage("--changes, --packets: at least 1 a second");
  }
  return options;
}

Json Summary(const utproxy::churn::Driver& driver) {
  const auto& report = driver.report();
  const uint64_t changes = ChangesMade(driver.world());
  const uint64_t judged = std::max<uint64_t>(report.judged, 1);
  return {{"seconds", driver.seconds_run()},
          {"changes", changes},
          {"changes_per_second", static_cast<double>(changes) / driver.seconds_run()},
          {"sent", report.sent},
          {"judged", report.judged},
          {"not_arrived", report.not_arrived},
          {"missed", report.missed},
          {"ambiguous", report.ambiguous},
          {"apart", report.apart},
          {"raced", report.raced},
          {"freed", report.freed},
          {"wrong_drop", report.wrong_drop},
          {"wrong_hit", report.wrong_hit},
          {"wrong_socket", report.wrong_socket},
          {"falsified", report.falsified},
          {"found", report.found},
          {"mean_window_us", report.window_ns / judged / 1000},
          {"changes_by_kind", driver.world().changes},
          {"refused", driver.world().refused}};
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  struct sigaction action {};
  action.sa_handler = RequestStop;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  utproxy::UniqueFd client(::open(options.client_netns.c_str(), O_RDONLY | O_CLOEXEC));
  if (!client.valid()) utproxy::churn::Die("open --client-netns " + options.client_netns);
  const utproxy::churn::IdleSockets idle(options.idle_tcp, options.idle_udp);
  utproxy::churn::Driver driver(options.driver, options.addresses, std::move(client));
  driver.Run(&stop);
  std::printf("%s\n", Summary(driver).dump().c_str());
  if (driver.report().wrong() != 0) return 1;
  if (stop == 0) return 0;
  std::fputs("churn: interrupted\n", stderr);
  return 128 + stop;
}
