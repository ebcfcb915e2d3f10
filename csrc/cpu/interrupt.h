// Calls that can be given up half-way, as Ctrl-C asks. While it works, the thread that made a call asks now and then whether to go on;
// when not, every thread at work on the call leaves its task by the exception Interrupted. That leaks nothing, as the core owns
// nothing: its memory is the caller's.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace sparsesvm {

struct Interrupted {};

// Whether the calls of this thread are to be given up; `ask` is null where nobody can want that.
struct Question {
  bool (*ask)(void*) = nullptr;
  void* state = nullptr;
};
Question& question();

class Call {
 public:
  Call();

  // Whether a thread at work on the call is to leave. The one that made it asks first when it is time to; `work` is the number of
  // multiplications since it was here.
  bool given_up(std::int64_t work);

  // By the thread that made the call, which has nothing left to do: waits, and asks, until `done`.
  template <class Done>
  void wait_until(const Done& done) {
    if (question_.ask == nullptr) return;  // whoever joins the threads waits better
    const Clock::time_point start = Clock::now();
    while (!done()) {
      given_up(clock_after);
      if (Clock::now() - start < std::chrono::milliseconds(1)) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds patience{50};
  static constexpr std::int64_t clock_after = 1 << 21;  // multiplications; a few milliseconds at worst

  Question question_;
  const void* maker_;  // something that the thread that made the call alone has
  std::atomic<bool> stopped_{false};
  std::int64_t work_ = 0;
  Clock::time_point next_ = Clock::now() + patience;
};

// The call that this thread works on, or null.
Call*& call_at_work();

// Makes this thread one that works on a call, or on none, while this lives.
class AtWork {
 public:
  explicit AtWork(Call* call);
  ~AtWork();
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;

 private:
  Call* before_;
};

// Leaves the task when its call is given up; to be called every few milliseconds.
void pause(std::int64_t work);

}  // namespace sparsesvm
