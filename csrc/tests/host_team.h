// Emulated blocks of threads on the host, for the bodies in csrc/cuda.
//
// `Fibers` runs them in one thread, switching at collective calls: always in the same order, or in an order drawn anew at every
// switch, which must not change a bit of the result. It finds barriers that not all threads reach. `Threads` runs each on a thread
// of its own, for ThreadSanitizer.
#pragma once

#include <ucontext.h>

#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda/team.h"

// ThreadSanitizer counts the calls and returns of what it instruments; functions that leave in another way must not be.
#define SPARSESVM_SWITCH __attribute__((noinline, no_sanitize("thread")))

namespace sparsesvm::testing {

constexpr int lanes = 32, slot_width = lanes;

// The threads that a collective call waits for, by kind: those of a warp, a block, or the team.
enum class Scope { warp, block, team };

struct Shape {
  int parts, threads;
  int all() const { return parts * threads; }
  int members(Scope scope) const { return scope == Scope::warp ? lanes : (scope == Scope::block ? threads : all()); }
  // Which group of its scope a thread belongs to.
  int group(Scope scope, int thread) const { return thread / members(scope); }
};

// What emulated threads exchange through, and the interface of team.h. Machine offers wait(thread, scope, kind).
template <class Machine>
class HostTeam {
 public:
  HostTeam(Machine& machine, int thread) : machine_(machine), thread_(thread) {}

  int part() const { return thread_ / machine_.shape.threads; }
  int parts() const { return machine_.shape.parts; }
  int rank() const { return thread_ % machine_.shape.threads; }
  int size() const { return machine_.shape.threads; }
  int warp() const { return rank() / lanes; }
  int warps() const { return size() / lanes; }
  int lane() const { return rank() % lanes; }

  void sync() const { machine_.wait(thread_, Scope::block, "sync"); }
  void sync_team() const { machine_.wait(thread_, Scope::team, "sync_team"); }

  double sum(double x) const {
    const double* values = exchange(x, Scope::block, "sum");
    double total = 0;
    for (int t = 0; t < size(); ++t) total += values[t * slot_width];
    return total;
  }
  double max(double x) const {
    const double* values = exchange(x, Scope::block, "max");
    double best = values[0];
    for (int t = 1; t < size(); ++t) best = values[t * slot_width] > best ? values[t * slot_width] : best;
    return best;
  }
  double warp_sum(double x) const {
    const double* values = exchange(x, Scope::warp, "warp_sum");
    double total = 0;
    for (int t = 0; t < lanes; ++t) total += values[t * slot_width];
    return total;
  }
  double warp_broadcast(double x, int from) const { return exchange(x, Scope::warp, "warp_broadcast")[from * slot_width]; }
  template <typename S, int N>
  S warp_sums(const S (&values)[N]) const {
    static_assert(N <= lanes);
    double* own = next_slot(Scope::warp);
    for (int e = 0; e < N; ++e) own[e] = static_cast<double>(values[e]);
    machine_.wait(thread_, Scope::warp, "warp_sums");
    const double* all = own - lane() * slot_width;
    S total = 0;
    for (int t = 0; t < lanes && lane() < N; ++t) total += static_cast<S>(all[t * slot_width + lane()]);
    return total;
  }

 private:
  // Two slots for each scope in turn: what is written next waits until all have come to the call after this one, and so have read.
  double* next_slot(Scope scope) const {
    int& turn = machine_.turns[2 * thread_ + (scope == Scope::warp)];
    turn = 1 - turn;
    return &machine_.slots[((scope == Scope::warp ? 2 : 0) + turn) * slot_width * machine_.shape.all() + thread_ * slot_width];
  }
  // The values of all members of the scope, that of the first one first.
  const double* exchange(double x, Scope scope, const char* kind) const {
    double* own = next_slot(scope);
    *own = x;
    machine_.wait(thread_, scope, kind);
    return own - (scope == Scope::warp ? lane() : rank()) * slot_width;
  }

  Machine& machine_;
  int thread_;
};

// Emulated threads as fibers of this one.
class Fibers {
 public:
  using Team = HostTeam<Fibers>;

  // seed 0: threads run in order of rank; else in an order drawn at every turn.
  Fibers(Shape shape_, unsigned seed)
      : shape(shape_),
        slots(static_cast<std::size_t>(4) * shape.all() * slot_width),
        turns(2 * shape.all()),
        seed_(seed),
        fibers_(shape.all()),
        gates_{std::vector<Gate>(shape.all() / lanes), std::vector<Gate>(shape.parts), std::vector<Gate>(1)} {}

  void run(const std::function<void(const Team&)>& body) {
    body_ = &body;
    for (int t = 0; t < shape.all(); ++t) start(t);
    for (;;) {
      bool any = false, done = true;
      const int n = shape.all();
      const int offset = seed_ == 0 ? 0 : static_cast<int>(random() % n), stride = seed_ == 0 ? 1 : coprime_stride(n);
      for (int turn = 0; turn < n; ++turn) {
        Fiber& fiber = fibers_[(offset + static_cast<long>(turn) * stride) % n];
        if (fiber.state == State::ready) {
          any = true;
          enter(fiber);
          if (!error_.empty()) throw std::runtime_error(error_);
        }
        done = done && fiber.state == State::done;
      }
      if (done) return;
      if (!any) throw std::runtime_error("barrier divergence: " + stuck());
    }
  }

  void wait(int thread, Scope scope, const char* kind) {
    const int group = shape.group(scope, thread), members = shape.members(scope);
    Gate& gate = gates_[static_cast<int>(scope)][group];
    if (gate.arrived > 0 && std::strcmp(gate.kind, kind) != 0) {
      error_ = "barrier divergence: a thread waits in " + std::string(gate.kind) + ", another in " + kind;
      leave(fibers_[thread]);
    }
    gate.kind = kind;
    if (++gate.arrived == members) {
      gate.arrived = 0;
      for (int t = group * members; t < (group + 1) * members; ++t) fibers_[t].state = State::ready;
      return;
    }
    Fiber& self = fibers_[thread];
    self.state = State::waiting;
    self.kind = kind;
    leave(self);
  }

  const Shape shape;
  std::vector<double> slots;
  std::vector<int> turns;

 private:
  enum class State { ready, waiting, done };
  // Those of a group who have come to its next barrier.
  struct Gate {
    int arrived = 0;
    const char* kind = "";
  };

  // Where a fiber goes on. swapcontext would save the signal mask too, by a system call that takes most of the time.
  using Place = void*[5];

  struct Fiber {
    ucontext_t context;
    Place place;
    bool started = false;
    std::unique_ptr<char[]> stack;
    State state = State::ready;
    const char* kind = "";
  };

  SPARSESVM_SWITCH void enter(Fiber& fiber) {
    if (__builtin_setjmp(scheduler_place_) != 0) return;
    if (fiber.started) resume(fiber.place);
    fiber.started = true;
    setcontext(&fiber.context);
  }
  SPARSESVM_SWITCH void leave(Fiber& fiber) {
    if (__builtin_setjmp(fiber.place) == 0) resume(scheduler_place_);
  }
  SPARSESVM_SWITCH static void resume(Place place) { __builtin_longjmp(place, 1); }

  void start(int t) {
    constexpr std::size_t stack_bytes = 128 << 10;
    Fiber& fiber = fibers_[t];
    fiber.stack.reset(new char[stack_bytes]);
    fiber.state = State::ready;
    fiber.started = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Fibers::body), 3, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self), t);
  }

  SPARSESVM_SWITCH static void body(unsigned high, unsigned low, int t) {
    auto* machine = reinterpret_cast<Fibers*>(static_cast<std::uintptr_t>(high) << 32 | low);
    (*machine->body_)(Team(*machine, t));
    machine->fibers_[t].state = State::done;
    resume(machine->scheduler_place_);
  }

  std::string stuck() const {
    std::string text;
    for (int t = 0; t < shape.all(); ++t) {
      if (fibers_[t].state == State::waiting)
        return "thread " + std::to_string(t) + " waits in " + fibers_[t].kind + " for threads that are done or elsewhere";
    }
    return text;
  }

  unsigned random() { return (seed_ = seed_ * 1664525u + 1013904223u) >> 8; }
  int coprime_stride(int n) {
    int stride = 1 + static_cast<int>(random() % n);
    const auto divisor = [](int a, int b) {
      while (b != 0) {
        const int rest = a % b;
        a = b;
        b = rest;
      }
      return a;
    };
    while (divisor(stride, n) != 1) ++stride;
    return stride;
  }

  unsigned seed_;
  std::vector<Fiber> fibers_;
  std::vector<Gate> gates_[3];  // of each scope
  Place scheduler_place_;
  const std::function<void(const Team&)>* body_ = nullptr;
  std::string error_;
};

// Emulated threads as threads.
class Threads {
 public:
  using Team = HostTeam<Threads>;

  explicit Threads(Shape shape_)
      : shape(shape_),
        slots(static_cast<std::size_t>(4) * shape.all() * slot_width),
        turns(2 * shape.all()),
        warps_(shape.all() / lanes),
        blocks_(shape.parts),
        team_(1) {}

  void run(const std::function<void(const Team&)>& body) {
    std::vector<std::thread> threads;
    for (int t = 0; t < shape.all(); ++t) threads.emplace_back([this, &body, t] { body(Team(*this, t)); });
    for (std::thread& thread : threads) thread.join();
  }

  void wait(int thread, Scope scope, const char* /*kind*/) {
    std::vector<Barrier>& barriers = scope == Scope::warp ? warps_ : (scope == Scope::block ? blocks_ : team_);
    barriers[shape.group(scope, thread)].wait(shape.members(scope));
  }

  const Shape shape;
  std::vector<double> slots;
  std::vector<int> turns;

 private:
  struct Barrier {
    std::mutex mutex;
    std::condition_variable released;
    int arrived = 0;
    long round = 0;

    void wait(int members) {
      std::unique_lock<std::mutex> lock(mutex);
      const long mine = round;
      if (++arrived == members) {
        arrived = 0;
        ++round;
        released.notify_all();
        return;
      }
      released.wait(lock, [&] { return round != mine; });
    }
  };

  std::vector<Barrier> warps_, blocks_, team_;
};

}  // namespace sparsesvm::testing
