// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_STRESS_SCHEDULE_H_
#define UTPROXY_TESTS_STRESS_SCHEDULE_H_

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace utproxy {

// Runs one writer of the socket table and readers in one thread, as coroutines, in a random order
// that follows from the seed: what a thread does between two accesses to shared words is one step.
// So a writer stands still between any two of its stores, for as long as a lookup takes, far more
// often than on a machine; and what goes wrong goes wrong again. All accesses are in program order
// and seen at once, so this says nothing about memory orders. One at a time in a process.
class Schedule {
 public:
  explicit Schedule(uint32_t seed) : random_(seed) {}
  ~Schedule();
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  // Both before Run. The writer is to return, and readers stop between lookups, once stopping().
  void SetWriter(std::function<void()> run) { Add(std::move(run)); }
  void AddReader(std::function<void()> run) { Add(std::move(run)); }

  // Until the writer has made `stores`, or should_stop(), or a lookup does not end.
  void Run(uint64_t stores, const std::function<bool()>& should_stop);
  // Or: the writer up to its `first` store, the reader (there is one) up to its load `looked`, the
  // writer up to the `second` store from there, the reader to its end. Which had already ended in
  // their middle parts; the writer by its first, too.
  struct Ended {
    bool writer_at_first = false, reader = false, writer = false;
  };
  Ended RunThrice(uint64_t first, uint64_t looked, uint64_t second);
  bool stopping() const { return stopping_; }
  // Called by readers before each lookup.
  void LookupBegins();
  // A lookup went on and on although the writer stood still.
  bool stuck() const { return stuck_; }

  // What the table calls, in whatever coroutine runs; outside of all of them, nothing.
  static void Load();
  static void Store();

 private:
  struct Coroutine {
    ucontext_t context;
    std::function<void()> run;
    std::unique_ptr<char[]> stack;
    bool done = false;
    uint64_t waited = 0;  // a reader's loads since its lookup began or the writer's last store
  };

  void Add(std::function<void()> run);
  static void Start();
  void Resume(Coroutine* which, uint64_t steps);
  void Pause();
  uint64_t Length();

  std::minstd_rand random_;
  std::vector<std::unique_ptr<Coroutine>> all_;  // the first is the writer
  ucontext_t back_;
  Coroutine* now_ = nullptr;
  uint64_t left_ = 0;        // steps until it is another's turn
  bool to_the_end_ = false;  // it is another's turn when a lookup has ended
  uint64_t stores_ = 0;
  bool stopping_ = false, stuck_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_TESTS_STRESS_SCHEDULE_H_
