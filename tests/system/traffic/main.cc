// SPDX-License-Identifier: GPL-3.0-or-later
// Both ends of the traffic that the system tests send: what a transparent proxy and its clients
// would do, with every byte checked and every address reported as JSON lines on standard output.
#include <cstring>

#include "common.h"

int main(int argc, char** argv) {
  const char* command = argc > 1 ? argv[1] : "";
  traffic::InstallStopSignals();
  traffic::RaiseFileLimit();
  if (std::strcmp(command, "tcp-listen") == 0) return traffic::TcpListen(argc, argv);
  if (std::strcmp(command, "tcp-client") == 0) return traffic::TcpClient(argc, argv);
  if (std::strcmp(command, "udp-listen") == 0) return traffic::UdpListen(argc, argv);
  if (std::strcmp(command, "udp-client") == 0) return traffic::UdpClient(argc, argv);
  if (std::strcmp(command, "flood") == 0) return traffic::SendFlood(argc, argv);
  traffic::DieUsage("usage: traffic tcp-listen|tcp-client|udp-listen|udp-client|flood [options]");
}
