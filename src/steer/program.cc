// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/program.h"

#include <absl/strings/str_cat.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "steer/flow_layout.h"
#include "utproxy/flow.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "steer/sk_lookup.skel.h"
#pragma GCC diagnostic pop

namespace utproxy {
namespace {

constexpr char kPrivilegeRemedy[] =
    "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (before Linux 5.8 CAP_SYS_ADMIN "
    "in "
    "place of the first two)";
constexpr char kKernelRemedy[] =
    "steering needs Linux 5.9 with CONFIG_BPF_SYSCALL and CONFIG_INET; with targets that keep the "
    "packet's port and address, --steer none does without";

// Errors come back as codes; libbpf's own lines would mix with ours on stderr.
void SilenceLibbpf() {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(nullptr); });
}

// What loading holds at once (maps, program, BTF), with some to spare.
constexpr size_t kLoadDescriptors = 12;

constexpr char kDescriptorRemedy[] =
    "raise the limit on open files (ulimit -n, or LimitNOFILE= of the service)";

// EMFILE or ENFILE where nothing more can be opened; else 0. libbpf says it as another error, or
// takes what it can't open for what the kernel has not.
int DescriptorsRunOut(int error) {
  if (error == EMFILE || error == ENFILE) return error;
  std::array<UniqueFd, kLoadDescriptors> spare;
  for (UniqueFd& fd : spare) {
    fd.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return errno == EMFILE || errno == ENFILE ? errno : 0;
  }
  return 0;
}

absl::Status LoadError(int error) {
  const absl::Status status = ErrnoStatus(error, "load the sk_lookup program");
  if (error == EPERM || error == EACCES) return WithRemedy(status, kPrivilegeRemedy);
  if (const int out = DescriptorsRunOut(error); out != 0) {
    return WithRemedy(ErrnoStatus(out, "load the sk_lookup program"), kDescriptorRemedy);
  }
  if (error == ENOSYS || libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SK_LOOKUP, nullptr) == 0) {
    return WithRemedy(absl::UnimplementedError(
                          "load the sk_lookup program: this kernel has no programs of that type"),
                      kKernelRemedy);
  }
  return status;
}

// The object is built with this file, yet what is checked here cannot be a stale build's accident.
bool LayoutIsOurs(const sk_lookup_bpf& skeleton) {
  return bpf_map__key_size(skeleton.maps.flows) == sizeof(FlowKey) &&
         bpf_map__value_size(skeleton.maps.flows) == sizeof(steer_target) &&
         bpf_map__key_size(skeleton.maps.listeners) == sizeof(uint64_t) &&
         bpf_map__value_size(skeleton.maps.listeners) == sizeof(uint64_t) &&
         bpf_map__value_size(skeleton.maps.counters) == sizeof(uint64_t) &&
         bpf_map__max_entries(skeleton.maps.counters) == STEER_COUNTERS;
}

bool SameMap(int fd, const bpf_map* map) {
  bpf_map_info info{};
  uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 && info.type == bpf_map__type(map) &&
         info.key_size == bpf_map__key_size(map) && info.value_size == bpf_map__value_size(map) &&
         info.max_entries == bpf_map__max_entries(map);
}

// A thread can be in another network namespace than its process.
absl::StatusOr<UniqueFd> OpenNetns() {
  UniqueFd netns(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!netns.valid()) return ErrnoStatus(errno, "open /proc/thread-self/ns/net");
  return netns;
}

uint64_t SumOverCpus(int fd, uint32_t counter) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return 0;
  std::vector<uint64_t> values(static_cast<size_t>(cpus));
  if (bpf_map_lookup_elem(fd, &counter, values.data()) != 0) return 0;
  uint64_t sum = 0;
  for (const uint64_t value : values) sum += value;
  return sum;
}

}  // namespace

void SkLookupProgram::DestroySkeleton::operator()(sk_lookup_bpf* skeleton) const {
  sk_lookup_bpf__destroy(skeleton);
}

absl::StatusOr<SkLookupProgram::Skeleton> SkLookupProgram::LoadSkeleton(
    uint32_t max_flows, uint32_t max_listeners, bool knows_iif, const SteeringParts* parts) {
  Skeleton skeleton(sk_lookup_bpf__open());
  if (skeleton == nullptr) return ErrnoStatus(errno, "open the sk_lookup program");
  if (!LayoutIsOurs(*skeleton)) {
    return absl::InternalError("the sk_lookup program's maps are not laid out as expected");
  }
  bpf_map__set_max_entries(skeleton->maps.flows, max_flows);
  bpf_map__set_max_entries(skeleton->maps.listeners, max_listeners);
  skeleton->rodata->knows_iif = knows_iif ? 1 : 0;
  if (parts != nullptr) {
    const auto& maps = skeleton->maps;
    for (const auto& [map, fd] :
         {std::pair(maps.flows, &parts->flows), std::pair(maps.listeners, &parts->listeners),
          std::pair(maps.counters, &parts->counters)}) {
      if (!SameMap(fd->get(), map) || bpf_map__reuse_fd(map, fd->get()) != 0) {
        return absl::FailedPreconditionError("the sk_lookup program's maps are another version's");
      }
    }
    // There may be entries of either kind from the first packet on.
    skeleton->bss->has_flows = skeleton->bss->has_destinations = 1;
  }
  if (const int error = sk_lookup_bpf__load(skeleton.get()); error != 0) return LoadError(-error);
  return skeleton;
}

absl::StatusOr<SkLookupProgram::Skeleton> SkLookupProgram::LoadSkeleton(uint32_t max_flows,
                                                                        uint32_t max_listeners,
                                                                        const SteeringParts* parts,
                                                                        bool* knows_iif) {
  SilenceLibbpf();
  *knows_iif = true;
  absl::StatusOr<Skeleton> skeleton = LoadSkeleton(max_flows, max_listeners, *knows_iif, parts);
  if (skeleton.ok()) return skeleton;
  *knows_iif = false;
  return LoadSkeleton(max_flows, max_listeners, *knows_iif, parts);
}

absl::StatusOr<SkLookupProgram> SkLookupProgram::Inherit(uint32_t max_flows, uint32_t max_listeners,
                                                         SteeringParts parts) {
  bpf_link_info info{};
  uint32_t length = sizeof info;
  const bool attached = bpf_obj_get_info_by_fd(parts.link.get(), &info, &length) == 0 &&
                        info.type == BPF_LINK_TYPE_NETNS;
  if (!attached) return absl::FailedPreconditionError("the sk_lookup program is not attached");
  bool knows_iif = false;
  ASSIGN_OR_RETURN(Skeleton skeleton, LoadSkeleton(max_flows, max_listeners, &parts, &knows_iif));
  ASSIGN_OR_RETURN(UniqueFd netns, OpenNetns());
  return SkLookupProgram(std::move(skeleton), std::move(parts.link), std::move(netns), knows_iif);
}

absl::Status SkLookupProgram::Replace() {
  if (bpf_link_update(link_.get(), program_fd(), nullptr) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "replace the sk_lookup program");
}

absl::StatusOr<SkLookupProgram> SkLookupProgram::Load(uint32_t max_flows, uint32_t max_listeners) {
  bool knows_iif = false;
  ASSIGN_OR_RETURN(Skeleton skeleton, LoadSkeleton(max_flows, max_listeners, nullptr, &knows_iif));
  ASSIGN_OR_RETURN(UniqueFd netns, OpenNetns());
  UniqueFd link(
      bpf_link_create(bpf_program__fd(skeleton->progs.steer), netns.get(), BPF_SK_LOOKUP, nullptr));
  if (!link.valid()) {
    const int error = errno;
    const absl::Status status =
        ErrnoStatus(error, "attach the sk_lookup program to the network namespace");
    if (error == E2BIG) {
      return WithRemedy(status, "64 programs are attached already: see `bpftool net` and detach");
    }
    return error == EPERM ? WithRemedy(status, kPrivilegeRemedy) : status;
  }
  return SkLookupProgram(std::move(skeleton), std::move(link), std::move(netns), knows_iif);
}

bool SkLookupProgram::IsAlone() const {
  uint32_t flags = 0, programs = 0;
  // Without room for ids it tells how many there are.
  if (bpf_prog_query(netns_.get(), BPF_SK_LOOKUP, 0, &flags, nullptr, &programs) != 0) return false;
  return programs == 1;
}

int SkLookupProgram::flows_fd() const { return bpf_map__fd(skeleton_->maps.flows); }
int SkLookupProgram::listeners_fd() const { return bpf_map__fd(skeleton_->maps.listeners); }
uint32_t SkLookupProgram::id() const {
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(program_fd(), &info, &length) == 0 ? info.id : 0;
}
int SkLookupProgram::counters_fd() const { return bpf_map__fd(skeleton_->maps.counters); }
int SkLookupProgram::program_fd() const { return bpf_program__fd(skeleton_->progs.steer); }

// The program reads this memory; the write of the entry that follows is a system call. Each flag is
// written once: every processor that looks a socket up reads them.
void SkLookupProgram::LookForEntries(bool destinations) const {
  auto* const flags = skeleton_->bss;
  const auto set = [](auto* flag) {
    if (__atomic_load_n(flag, __ATOMIC_RELAXED) == 0) __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
  };
  set(&flags->has_flows);
  if (destinations) set(&flags->has_destinations);
}

bool SkLookupProgram::looks_for_destinations() const {
  return __atomic_load_n(&skeleton_->bss->has_destinations, __ATOMIC_RELAXED) != 0;
}

SkLookupProgram::Counters SkLookupProgram::counters() const {
  const int fd = bpf_map__fd(skeleton_->maps.counters);
  return {.no_entry = SumOverCpus(fd, STEER_NO_ENTRY),
          .steered = SumOverCpus(fd, STEER_STEERED),
          .by_destination = SumOverCpus(fd, STEER_BY_DESTINATION),
          .socket_gone = SumOverCpus(fd, STEER_SOCKET_GONE),
          .assign_refused = SumOverCpus(fd, STEER_ASSIGN_REFUSED)};
}

}  // namespace utproxy
