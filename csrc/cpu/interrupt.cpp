#include "cpu/interrupt.h"

namespace sparsesvm {

Question& question() {
  thread_local Question own;
  return own;
}

Call*& call_at_work() {
  thread_local Call* call = nullptr;
  return call;
}

AtWork::AtWork(Call* call) : before_(call_at_work()) { call_at_work() = call; }
AtWork::~AtWork() { call_at_work() = before_; }

void pause(std::int64_t work) {
  Call* call = call_at_work();
  if (call != nullptr && call->given_up(work)) throw Interrupted{};
}

Call::Call() : question_(question()), maker_(&question()) {}

bool Call::given_up(std::int64_t work) {
  if (stopped_.load(std::memory_order_relaxed)) return true;
  if (question_.ask == nullptr || maker_ != &question()) return false;
  work_ += work + 100;
  if (work_ < clock_after) return false;
  work_ = 0;
  if (Clock::now() < next_) return false;
  const bool stop = question_.ask(question_.state);
  next_ = Clock::now() + patience;
  stopped_.store(stop, std::memory_order_relaxed);
  return stop;
}

}  // namespace sparsesvm
