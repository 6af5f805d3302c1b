// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/trace_stream.h"

#include <absl/strings/str_cat.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/snapshot.h"

namespace utproxy {
namespace {

constexpr int kIdleMs = 5;                     // a recorder holds 80 ms of full load
constexpr int64_t kSourcesNs = 50 * kNsPerMs;  // how late a new queue's records may be
constexpr int64_t kAroundNs = kNsPerSec;       // how old the sockets around a record may be
constexpr size_t kFlushBytes = size_t{64} << 10;
constexpr int kNice = 10;

int64_t RealtimeOffsetNs() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * kNsPerSec + now.tv_nsec - MonotonicNs();
}

// Sorts as the packets were decided; of one batch as they came.
template <typename Items>
void SortByTime(Items* items) {
  std::stable_sort(items->begin(), items->end(), [](const auto& a, const auto& b) {
    return a.record.decided_ns < b.record.decided_ns;
  });
}

absl::StatusOr<uint64_t> NumberIn(const Json& request, const char* key) {
  const auto it = request.find(key);
  if (it == request.end()) return 0;
  if (!it->is_number_unsigned()) {
    return absl::InvalidArgumentError(absl::StrCat("trace: ", key, ": not a number"));
  }
  return it->get<uint64_t>();
}

bool FlagIn(const Json& request, const char* key, bool otherwise) {
  const auto it = request.find(key);
  return it != request.end() && it->is_boolean() ? it->get<bool>() : otherwise;
}

}  // namespace

absl::StatusOr<TraceRequest> TraceRequest::FromJson(const Json& request) {
  TraceRequest out;
  if (const auto it = request.find("filter"); it != request.end() && it->is_string()) {
    absl::StatusOr<Filter> filter = Filter::Compile(it->get_ref<const std::string&>());
    if (!filter.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("filter: ", filter.status().message()));
    }
    out.filter = *std::move(filter);
  }
  ASSIGN_OR_RETURN(out.count, NumberIn(request, "count"));
  ASSIGN_OR_RETURN(out.last, NumberIn(request, "last"));
  out.parts.steps = FlagIn(request, "steps", true);
  out.parts.raw = FlagIn(request, "raw", false);
  return out;
}

TraceStream::TraceStream(TraceRequest request, std::function<std::vector<TraceSource>()> sources,
                         const Mirror* mirror)
    : request_(std::move(request)),
      sources_(std::move(sources)),
      mirror_(mirror),
      sources_ns_(MonotonicNs()),
      names_([this](uint32_t ifindex) { return interfaces_->NameOf(ifindex); }) {
  for (TraceSource& source : sources_()) {
    const uint64_t next = source.recorder->end();
    AddCursor(std::move(source), next);
  }
}

void TraceStream::AddCursor(TraceSource source, uint64_t next) {
  const uint16_t queue = source.queue;
  cursors_.push_back(
      {.source = std::move(source),
       .next = next,
       .configuration = 0,
       .context = {
           .target = "", .queue = queue, .policy = {}, .realtime_offset_ns = 0, .names = names_}});
}

void TraceStream::RefreshSources() {
  if (MonotonicNs() - sources_ns_ < kSourcesNs) return;
  sources_ns_ = MonotonicNs();
  std::vector<TraceSource> sources = sources_();
  const auto gone = [&sources](const Cursor& cursor) {
    return cursor.next == cursor.source.recorder->end() &&
           std::none_of(sources.begin(), sources.end(), [&](const TraceSource& source) {
             return source.recorder == cursor.source.recorder;
           });
  };
  std::erase_if(cursors_, gone);
  for (TraceSource& source : sources) {
    const auto same = [&source](const Cursor& cursor) {
      return cursor.source.recorder == source.recorder;
    };
    if (std::none_of(cursors_.begin(), cursors_.end(), same)) AddCursor(std::move(source), 0);
  }
}

const TraceContext& TraceStream::ContextOf(const Item& item) const {
  Cursor& cursor = *item.cursor;
  if (cursor.configuration != item.record.configuration) {
    const std::shared_ptr<const Target> target = cursor.source.target(item.record.configuration);
    cursor.context.target = target->name;
    cursor.context.policy = target->policy;
    cursor.context.spread = target->spread;
    cursor.configuration = item.record.configuration;
  }
  return cursor.context;
}

absl::Status TraceStream::Run(const ControlServer::Writer& write) {
  // This thread alone; it ends with the client.
  const auto self = static_cast<id_t>(::syscall(SYS_gettid));
  if (::getpriority(PRIO_PROCESS, self) < kNice) (void)::setpriority(PRIO_PROCESS, self, kNice);
  RETURN_IF_ERROR(request_.last != 0 ? Last(write) : Follow(write));
  (void)write.Lines(absl::StrCat("{\"examined\":", examined_, ",\"lost_total\":", lost_, "}\n"));
  return absl::OkStatus();
}

absl::Status TraceStream::Follow(const ControlServer::Writer& write) {
  lines_ = "{\"tracing\":true}\n";
  RETURN_IF_ERROR(Tell(write));
  while (true) {
    RefreshSources();
    ReadRound();
    RefreshClockAndNames();
    for (const Item& item : items_) {
      ++examined_;
      if (!Passes(item)) continue;
      Append(item);
      if (++written_ == request_.count) {
        // What else of this round was read is examined too.
        examined_ += static_cast<uint64_t>(&items_.back() - &item);
        return Tell(write);
      }
      if (lines_.size() >= kFlushBytes) RETURN_IF_ERROR(Tell(write));
    }
    AppendLoss();
    if (lines_.empty() && MonotonicNs() - told_ns_ >= kAliveNs) lines_ = "{\"alive\":true}\n";
    if (!lines_.empty()) RETURN_IF_ERROR(Tell(write));
    if (items_.empty() && !write.Wait(kIdleMs)) {
      return absl::UnavailableError("the client has gone");
    }
  }
}

absl::Status TraceStream::Last(const ControlServer::Writer& write) {
  RefreshClockAndNames();
  std::vector<Item> found;
  for (Cursor& cursor : cursors_) {
    const FlightRecorder& recorder = *cursor.source.recorder;
    const uint64_t end = cursor.next;
    size_t taken = 0;
    // Backwards, until there are enough or the rest is overwritten.
    for (uint64_t n = end; n > recorder.begin() && taken < request_.last; --n) {
      Item item{.record = {}, .cursor = &cursor};
      if (recorder.Read(n - 1, &item.record) != FlightRecorder::Result::kRead) break;
      ++examined_;
      if (!Passes(item)) continue;
      found.push_back(item);
      ++taken;
    }
    std::reverse(found.end() - static_cast<ptrdiff_t>(taken), found.end());
  }
  SortByTime(&found);
  if (found.size() > request_.last) {
    found.erase(found.begin(), found.end() - static_cast<ptrdiff_t>(request_.last));
  }
  for (const Item& item : found) {
    Append(item);
    if (lines_.size() >= kFlushBytes) RETURN_IF_ERROR(Tell(write));
  }
  return Tell(write);
}

absl::Status TraceStream::Tell(const ControlServer::Writer& write) {
  if (!write.Lines(std::exchange(lines_, {}))) {
    return absl::UnavailableError("the client has gone");
  }
  told_ns_ = MonotonicNs();
  return absl::OkStatus();
}

void TraceStream::ReadRound() {
  items_.clear();
  for (Cursor& cursor : cursors_) ReadSome(&cursor);
  SortByTime(&items_);
}

void TraceStream::ReadSome(Cursor* cursor) {
  const FlightRecorder& recorder = *cursor->source.recorder;
  const uint64_t end = recorder.end();
  if (end - cursor->next > recorder.capacity()) {
    // At the ring's tail every record is about to be overwritten: some room to go on.
    const uint64_t from = end - recorder.capacity() * 7 / 8;
    Lose(from - cursor->next);
    cursor->next = from;
  }
  for (size_t i = 0; i < kRound && cursor->next < end; ++i, ++cursor->next) {
    Item& item = items_.emplace_back();
    item.cursor = cursor;
    if (recorder.Read(cursor->next, &item.record) == FlightRecorder::Result::kRead) continue;
    items_.pop_back();
    Lose(1);
  }
}

bool TraceStream::Passes(const Item& item) const {
  const TraceContext& context = ContextOf(item);
  return request_.filter.Passes(
      {.record = item.record, .target = context.target, .queue = context.queue, .names = names_});
}

void TraceStream::Append(const Item& item) {
  PortLists* around = request_.parts.steps ? Around() : nullptr;
  absl::StrAppend(&lines_,
                  JsonLine(ToJson(item.record, ContextOf(item), request_.parts, around, {})), "\n");
}

void TraceStream::AppendLoss() {
  if (lost_ == lost_told_) return;
  absl::StrAppend(&lines_, "{\"lost\":", lost_ - lost_told_, ",\"lost_total\":", lost_, "}\n");
  lost_told_ = lost_;
}

PortLists* TraceStream::Around() {
  if (around_ != nullptr && MonotonicNs() - around_ns_ < kAroundNs) return around_.get();
  std::vector<Socket> sockets = SocketsInOrder(mirror_->table());
  // Connections are the record's own.
  std::erase_if(sockets, [](const Socket& s) { return s.proto == Proto::kTcp && !s.listening(); });
  around_ = std::make_unique<PortLists>(sockets, PrimaryAddresses(*interfaces_));
  around_ns_ = MonotonicNs();
  return around_.get();
}

void TraceStream::RefreshClockAndNames() {
  interfaces_ = mirror_->interfaces().Get();
  const int64_t offset_ns = RealtimeOffsetNs();
  for (Cursor& cursor : cursors_) cursor.context.realtime_offset_ns = offset_ns;
}

}  // namespace utproxy
