// Emulated blocks of threads on the host, for the bodies in csrc/cuda.
//
// `Fibers` runs them in one thread, switching at collective calls: always in the same order, or in an order drawn anew at every
// switch, which must not change a bit of the result. It finds barriers that not all threads reach. `Threads` runs each on a thread
// of its own, for ThreadSanitizer.
#pragma once

#include <ucontext.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda/team.h"

namespace sparsesvm::testing {

constexpr int lanes = 32;

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
    exchange(x, Scope::block, "sum");
    double total = 0;
    for (int t = 0; t < size(); ++t) total += slot(part() * size() + t);
    machine_.wait(thread_, Scope::block, "sum read");
    return total;
  }
  double max(double x) const {
    exchange(x, Scope::block, "max");
    double best = slot(part() * size());
    for (int t = 1; t < size(); ++t) best = slot(part() * size() + t) > best ? slot(part() * size() + t) : best;
    machine_.wait(thread_, Scope::block, "max read");
    return best;
  }
  double warp_sum(double x) const {
    exchange(x, Scope::warp, "warp_sum");
    double total = 0;
    for (int t = 0; t < lanes; ++t) total += slot(thread_ - lane() + t);
    machine_.wait(thread_, Scope::warp, "warp_sum read");
    return total;
  }
  double warp_broadcast(double x, int from) const {
    exchange(x, Scope::warp, "warp_broadcast");
    const double value = slot(thread_ - lane() + from);
    machine_.wait(thread_, Scope::warp, "warp_broadcast read");
    return value;
  }
  template <typename S, int N>
  S warp_sums(const S (&values)[N]) const {
    static_assert(N <= lanes);
    for (int e = 0; e < N; ++e) machine_.slots[thread_ * lanes + e] = static_cast<double>(values[e]);
    machine_.wait(thread_, Scope::warp, "warp_sums");
    S total = 0;
    for (int t = 0; t < lanes && lane() < N; ++t) total += static_cast<S>(machine_.slots[(thread_ - lane() + t) * lanes + lane()]);
    machine_.wait(thread_, Scope::warp, "warp_sums read");
    return total;
  }

 private:
  double& slot(int thread) const { return machine_.slots[thread * lanes]; }
  void exchange(double x, Scope scope, const char* kind) const {
    slot(thread_) = x;
    machine_.wait(thread_, scope, kind);
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
      : shape(shape_), slots(static_cast<std::size_t>(shape.all()) * lanes), seed_(seed), fibers_(shape.all()) {}

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
          current_ = &fiber;
          swapcontext(&scheduler_, &fiber.context);
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
    int arrived = 0;
    for (int t = group * members; t < (group + 1) * members; ++t) {
      const Fiber& other = fibers_[t];
      if (t == thread || other.state != State::waiting) continue;
      // It may be ahead in a group that this thread is no part of; else both must have come to the same call.
      if (shape.group(other.scope, t) != shape.group(other.scope, thread)) continue;
      if (other.scope != scope || std::string(other.kind) != kind) {
        error_ = "barrier divergence: a thread waits in " + std::string(other.kind) + ", another in " + kind;
        swapcontext(&fibers_[thread].context, &scheduler_);
      }
      ++arrived;
    }
    if (arrived == members - 1) {
      for (int t = group * members; t < (group + 1) * members; ++t) fibers_[t].state = State::ready;
      return;
    }
    Fiber& self = fibers_[thread];
    self.state = State::waiting;
    self.scope = scope;
    self.kind = kind;
    swapcontext(&self.context, &scheduler_);
  }

  const Shape shape;
  std::vector<double> slots;

 private:
  enum class State { ready, waiting, done };
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    State state = State::ready;
    Scope scope = Scope::block;
    const char* kind = "";
  };

  void start(int t) {
    constexpr std::size_t stack_bytes = 128 << 10;
    Fiber& fiber = fibers_[t];
    fiber.stack.reset(new char[stack_bytes]);
    fiber.state = State::ready;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = &scheduler_;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Fibers::enter), 3, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self), t);
  }

  static void enter(unsigned high, unsigned low, int t) {
    auto* machine = reinterpret_cast<Fibers*>(static_cast<std::uintptr_t>(high) << 32 | low);
    (*machine->body_)(Team(*machine, t));
    machine->fibers_[t].state = State::done;
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
  ucontext_t scheduler_;
  Fiber* current_ = nullptr;
  const std::function<void(const Team&)>* body_ = nullptr;
  std::string error_;
};

// Emulated threads as threads.
class Threads {
 public:
  using Team = HostTeam<Threads>;

  explicit Threads(Shape shape_)
      : shape(shape_),
        slots(static_cast<std::size_t>(shape.all()) * lanes),
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
