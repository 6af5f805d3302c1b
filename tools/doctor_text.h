// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DOCTOR_TEXT_H_
#define UTPROXY_TOOLS_DOCTOR_TEXT_H_

#include <string>

#include "diagnose/doctor.h"

namespace utproxy::tools {

// Findings for people: what was looked at, then by severity; sentences wrapped to `width`, commands
// on one line each however long, so that they can be pasted.
std::string DoctorText(const SystemView& view, const Findings& findings, size_t width, bool color);
// One finding, as in the above.
std::string FindingText(const Finding& finding, size_t width, bool color);
// "xt TPROXY: tcp port 8080 from lan0 to port 12345, mark 0x1/0x1, IPv4 and IPv6".
std::string TargetText(const ProxyTarget& target);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DOCTOR_TEXT_H_
