// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/queue_stats.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/status.h"

namespace utproxy {
namespace {

// /proc/net is the namespace of the process's first thread, which need not be the caller's.
constexpr char kPath[] = "/proc/thread-self/net/netfilter/nfnetlink_queue";
// 65,536 queues at some 55 bytes a line.
constexpr size_t kMaxBytes = 8 << 20;

// The file that KeepQueueStatsOpen() opened, and who reads it: its offset is all readers'.
struct Kept {
  std::mutex mutex;
  UniqueFd fd;
};
Kept& TheKept() {
  static Kept kept;
  return kept;
}

absl::StatusOr<UniqueFd> OpenStats() {
  UniqueFd fd(::open(kPath, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open ", kPath));
  return fd;
}

absl::StatusOr<std::string> ReadToEnd(int fd) {
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("read ", kPath));
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxBytes) {
      return absl::OutOfRangeError(absl::StrCat("read ", kPath, ": more than expected"));
    }
  }
}

absl::StatusOr<std::string> ReadStats() {
  {
    Kept& kept = TheKept();
    const std::lock_guard lock(kept.mutex);
    if (kept.fd.valid()) {
      if (::lseek(kept.fd.get(), 0, SEEK_SET) != 0) return ErrnoStatus(errno, "rewind");
      return ReadToEnd(kept.fd.get());
    }
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenStats());
  return ReadToEnd(fd.get());
}

bool ParseLine(absl::string_view line, QueueStats* stats) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  // The ninth column is a constant 1.
  if (words.size() < 8) return false;
  uint32_t number = 0;
  uint32_t* const fields[] = {
      &number,         &stats->port_id,      &stats->depth,  &stats->copy_mode, &stats->copy_range,
      &stats->dropped, &stats->user_dropped, &stats->last_id};
  for (size_t i = 0; i < 8; ++i) {
    if (!absl::SimpleAtoi(words[i], fields[i])) return false;
  }
  if (number > 0xffff) return false;
  stats->number = static_cast<uint16_t>(number);
  return true;
}

}  // namespace

std::vector<QueueStats> ParseQueueStats(absl::string_view text) {
  std::vector<QueueStats> all;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    QueueStats stats;
    if (ParseLine(line, &stats)) all.push_back(stats);
  }
  return all;
}

absl::Status KeepQueueStatsOpen() {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenStats());
  Kept& kept = TheKept();
  const std::lock_guard lock(kept.mutex);
  kept.fd = std::move(fd);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<QueueStats>> ReadQueueStats() {
  ASSIGN_OR_RETURN(const std::string text, ReadStats());
  return ParseQueueStats(text);
}

absl::StatusOr<std::optional<QueueStats>> ReadQueueStats(uint16_t number) {
  ASSIGN_OR_RETURN(const std::vector<QueueStats> all, ReadQueueStats());
  for (const QueueStats& stats : all) {
    if (stats.number == number) return std::optional<QueueStats>(stats);
  }
  return std::optional<QueueStats>();
}

}  // namespace utproxy
