// What the entry points that take long are called with: the interpreter unlocked, and Ctrl-C heard.
#pragma once

#include <pybind11/pybind11.h>

#include "cpu/interrupt.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace sparsesvm::binding {

// While it lives other threads run Python. On the main thread, where Python runs its signal handlers, it lets them run now and then;
// when one raises, as that of Ctrl-C does, the call is given up and ends with that exception.
class Unlocked {
 public:
  Unlocked() : before_(question()), thread_(PyEval_SaveThread()) {
    question() = on_main_thread() ? Question{&ask, this} : Question{};
  }
  ~Unlocked() {
    question() = before_;
    PyEval_RestoreThread(thread_);
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  static bool on_main_thread() {
#if defined(__linux__)
    return gettid() == getpid();
#else
    return true;  // elsewhere Python looks
#endif
  }

  static bool ask(void* opaque) {
    Unlocked& self = *static_cast<Unlocked*>(opaque);
    PyEval_RestoreThread(self.thread_);
    const bool raised = PyErr_CheckSignals() != 0;
    self.thread_ = PyEval_SaveThread();
    return raised;
  }

  Question before_;
  PyThreadState* thread_;
};

// Python has the exception already.
inline void pass_interruptions_on() {
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Interrupted&) {
    }
  });
}

}  // namespace sparsesvm::binding
