// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_SHRINK_H_
#define UTPROXY_TESTS_PARITY_SHRINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "generator.h"
#include "lab.h"
#include "spec.h"

namespace utproxy::parity {

// One case that differs, with all it needs.
struct Repro {
  Generator::World world;  // one policy, one mark
  Scene scene;
  PacketSpec packet;
  Way way = Way::kExact;
  Oracle oracle = Oracle::kXt;
};

// Taken out of a run: the case alone with its scene.
Repro Isolate(const Generator::World& world, const Scene& scene, const Case& one,
              const Difference& difference);

// Runs single cases, each in namespaces of its own; those of cases that differ in sockets and
// packet only are used again, as making them takes most of the time.
class Rerun {
 public:
  Rerun(std::string program, bool fast_path)
      : program_(std::move(program)), fast_path_(fast_path) {}
  // Whether the case differs when it is run by itself. `fresh`: in new namespaces at any rate.
  bool Differs(const Repro& repro, bool fresh = false);
  // Of the last case that did.
  const Difference& difference() const { return difference_; }

 private:
  const std::string program_;
  const bool fast_path_;
  std::unique_ptr<Lab> lab_;
  std::optional<Repro> made_for_;
  Difference difference_;
};

// The smallest case found by leaving out sockets, addresses, headers and options one after the
// other, for as long as `differs` says that what is left still differs.
Repro Shrink(Repro repro, const std::function<bool(const Repro&)>& differs);

// A shell script of some lines that shows the case by hand: it makes the namespace, the rule and
// the sockets, sends the packet, and prints what the kernel did and what utproxy says.
std::string Script(const Repro& repro);

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_SHRINK_H_
