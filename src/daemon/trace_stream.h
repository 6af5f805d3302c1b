// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_TRACE_STREAM_H_
#define UTPROXY_DAEMON_TRACE_STREAM_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/control_server.h"
#include "daemon/target.h"
#include "daemon/trace_json.h"
#include "mirror/mirror.h"
#include "trace/filter.h"
#include "trace/flight_recorder.h"

namespace utproxy {

// One queue's recorder.
struct TraceSource {
  std::shared_ptr<const FlightRecorder> recorder;
  // The target by which a record was decided, by the number of its configuration.
  std::function<std::shared_ptr<const Target>(uint32_t configuration)> target;
  uint16_t queue;
};

// A request of `utproxy trace`.
struct TraceRequest {
  Filter filter;
  TraceParts parts;
  uint64_t count = 0;  // end after so many; 0: never
  uint64_t last = 0;   // the last so many that there are, and no new ones; 0: new ones

  static absl::StatusOr<TraceRequest> FromJson(const Json& request);
};

// One reader of the flight recorders: what one client sees. It writes nothing that a worker reads,
// so that nothing it does or leaves undone can hold up packets; where it falls behind, records are
// overwritten before it reads them, and it counts them. For the thread that serves the client,
// which gives way to all others from then on.
class TraceStream {
 public:
  // `sources`: the queues there are; is called again from time to time, as there may be others.
  TraceStream(TraceRequest request, std::function<std::vector<TraceSource>()> sources,
              const Mirror* mirror);

  // Writes objects until the client wants no more:
  //   one of `utproxy trace` for each record that passes the filter,
  //   {"alive": true} where there was nothing to write for kAliveNs,
  //   {"lost": N, "lost_total": N} where records were overwritten before they were read,
  //   {"examined": N, "lost_total": N} last.
  // Every record from the start on, to the last one that was read, is counted once, in examined or
  // in lost_total.
  absl::Status Run(const ControlServer::Writer& write);

 private:
  struct Cursor {
    TraceSource source;
    uint64_t next;
    uint32_t configuration;  // the one that `context` is for
    TraceContext context;
  };
  struct Item {
    TraceRecord record;
    Cursor* cursor;
  };

  absl::Status Follow(const ControlServer::Writer& write);
  absl::Status Last(const ControlServer::Writer& write);
  // Writes lines_, whole lines. An error where the client has gone.
  absl::Status Tell(const ControlServer::Writer& write);
  // Reads up to kRound records of each queue that have not been read; by time, in items_.
  void ReadRound();
  void ReadSome(Cursor* cursor);
  // Takes in queues that have come, from their first record on, and lets go of those that are
  // closed and read.
  void RefreshSources();
  void AddCursor(TraceSource source, uint64_t next);
  const TraceContext& ContextOf(const Item& item) const;
  void Lose(uint64_t records) { lost_ += records; }
  bool Passes(const Item& item) const;
  void Append(const Item& item);
  void AppendLoss();
  PortLists* Around();
  void RefreshClockAndNames();

  static constexpr size_t kRound = 256;

  const TraceRequest request_;
  const std::function<std::vector<TraceSource>()> sources_;
  const Mirror* const mirror_;
  std::vector<Cursor> cursors_;
  int64_t sources_ns_ = 0;
  std::vector<Item> items_;
  std::string lines_;
  int64_t told_ns_ = 0;  // when something was written last
  uint64_t examined_ = 0;
  uint64_t lost_ = 0;
  uint64_t lost_told_ = 0;
  uint64_t written_ = 0;
  std::shared_ptr<const InterfaceSnapshot> interfaces_;
  std::function<std::string(uint32_t)> names_;
  std::unique_ptr<PortLists> around_;
  int64_t around_ns_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_TRACE_STREAM_H_
