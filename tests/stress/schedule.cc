// SPDX-License-Identifier: GPL-3.0-or-later
#include "stress/schedule.h"

#include "utproxy/socket_table_layout.h"

namespace utproxy {
namespace {

constexpr size_t kStack = size_t{96} << 10;
// Of one lookup while the writer stands still. A copy of the whole table takes some thousands.
constexpr uint64_t kTooLong = 50'000;

Schedule* running = nullptr;

}  // namespace

Schedule::~Schedule() { running = nullptr; }

void Schedule::Add(std::function<void()> run) {
  auto added = std::make_unique<Coroutine>();
  added->run = std::move(run);
  added->stack = std::make_unique_for_overwrite<char[]>(kStack);
  ::getcontext(&added->context);
  added->context.uc_stack = {.ss_sp = added->stack.get(), .ss_flags = 0, .ss_size = kStack};
  added->context.uc_link = &back_;
  ::makecontext(&added->context, &Schedule::Start, 0);
  all_.push_back(std::move(added));
}

void Schedule::Start() {
  running->now_->run();
  running->now_->done = true;
}

void Schedule::Resume(Coroutine* which, uint64_t steps) {
  if (which->done) return;
  now_ = which;
  left_ = steps;
  ::swapcontext(&back_, &which->context);
  now_ = nullptr;
}

void Schedule::Pause() { ::swapcontext(&now_->context, &back_); }

void Schedule::LookupBegins() {
  now_->waited = 0;
  if (!to_the_end_) return;
  to_the_end_ = false;
  Pause();
}

// Mostly a few steps; now and then as many as a lookup takes.
uint64_t Schedule::Length() { return 1 + (random_() >> 8) % (uint64_t{1} << (random_() >> 8) % 8); }

void Schedule::Run(uint64_t stores, const std::function<bool()>& should_stop) {
  running = this;
  Coroutine* const writer = all_.front().get();
  while (stores_ < stores && !stuck_ && !should_stop()) {
    if ((random_() >> 8) % 2 == 0) {
      Resume(writer, Length());
      continue;
    }
    to_the_end_ = (random_() >> 8) % 8 == 0;
    Coroutine* const reader = all_[1 + (random_() >> 8) % (all_.size() - 1)].get();
    Resume(reader, to_the_end_ ? kTooLong + 1 : Length());
    to_the_end_ = false;
  }
  stopping_ = true;
  Resume(writer, ~uint64_t{0});
  // Of a table that is broken some may never end; they are left where they are.
  for (const auto& reader : all_) {
    reader->waited = 0;
    Resume(reader.get(), kTooLong);
    stuck_ |= !reader->done;
  }
  running = nullptr;
}

Schedule::Ended Schedule::RunThrice(uint64_t first, uint64_t looked, uint64_t second) {
  running = this;
  Coroutine *const writer = all_[0].get(), *const reader = all_[1].get();
  Ended ended;
  Resume(writer, first);
  ended.writer_at_first = writer->done;
  Resume(reader, looked);
  ended.reader = reader->done;
  Resume(writer, second);
  ended.writer = writer->done;
  Resume(reader, kTooLong);
  stuck_ = !reader->done;
  Resume(writer, ~uint64_t{0});
  Resume(reader, kTooLong);
  running = nullptr;
  return ended;
}

void Schedule::Load() {
  if (running == nullptr || running->now_ == nullptr) return;
  Schedule& s = *running;
  if (s.now_ == s.all_.front().get()) return;
  if (++s.now_->waited > kTooLong) s.stuck_ = true;
  if (s.stuck_ || s.left_-- <= 1) s.Pause();
}

void Schedule::Store() {
  if (running == nullptr || running->now_ == nullptr) return;
  Schedule& s = *running;
  ++s.stores_;
  for (const auto& reader : s.all_) reader->waited = 0;
  if (s.left_-- <= 1) s.Pause();
}

namespace table_internal {
void BeforeLoad() { Schedule::Load(); }
void BeforeStore() { Schedule::Store(); }
}  // namespace table_internal

}  // namespace utproxy
