// Who works on a sparse regression. Solver and derivative are templates on a team of threads with this interface, which one
// thread offers here and a block of CUDA threads in cuda/regression.h:
//
//   rank(), size()        this thread's place in the team
//   sync()                barrier
//   sum(x), max(x)        over the team, the result for every thread; also barriers
//   products(...)         out[a * out_stride + b] = scale <left[a], right + b * right_stride>
//   squares(...)          out[a] = scale ||left[a]||^2
//   list(n, wanted, out)  the positions, in order, for which wanted(position) holds; returns how many
//   factor(matrix, n, floor, scale)
//                         puts the Cholesky factor of a symmetric positive semidefinite matrix, given in full, in its place. A
//                         variable whose pivot is not above `floor` depends on those before it: it is left out, and its scale
//                         becomes zero. Returns the last such variable, or -1
//   solve(factor, n, x)   x := A^-1 x, any number where a variable was left out
//   padding               rows of `matrix` and `factor` have n + padding entries, and there are as many rows
//
// All from `products` on end with a barrier; what they read must be visible to all threads before. A team is passed by
// value. All its threads go the same way: branches depend on numbers that are equal for all.
#pragma once

#include "core/basics.h"
#include "core/linear_algebra/cholesky.h"
#include "core/macros.h"
#include "core/team.h"

SPARSESVM_BEGIN

template <class Passes>
class SerialTeam : public OneThread {
 public:
  static constexpr index padding = 0;

  void sync() const { Passes::pause(1000); }

  void products(const double* const* left, index n_left, const double* right, index right_stride, index n_right, index length,
                double scale, double* out, index out_stride) const {
    // Not a row at a time, which compilers make a call of memset: for single entries a twentieth of the solver's time.
    for (index b = 0; b < n_right; ++b) {
      for (index a = 0; a < n_left; ++a) out[a * out_stride + b] = 0;
    }
    constexpr index at_once = 64;  // each call is a place to pause at
    for (index a = 0; a < n_left; a += at_once) {
      const index count = n_left - a < at_once ? n_left - a : at_once;
      Passes::add_products(left + a, count, right, right_stride, n_right, length, scale, out + a * out_stride, out_stride);
    }
  }

  void squares(const double* const* left, index n_left, index length, double scale, double* out) const {
    for (index a = 0; a < n_left; ++a) {
      if (a % 64 == 0) Passes::pause(64 * length);
      products(left + a, 1, left[a], 0, 1, length, scale, out + a, 1);
    }
  }

  template <class Wanted>
  index list(index n, const Wanted& wanted, index* out) const {
    index count = 0;
    for (index e = 0; e < n; ++e) {
      if (wanted(e)) out[count++] = e;
    }
    return count;
  }

  index factor(double* matrix, index n, double floor, double* scale) const {
    index left_out = -1;
    for (index stop = factor_cholesky<Passes>(matrix, n, n, floor); stop < n;
         stop = factor_cholesky<Passes>(matrix, n, n, floor, stop + 1)) {
      leave_out(matrix, n, stop);
      scale[stop] = 0;
      left_out = stop;
    }
    return left_out;
  }

  void solve(const double* factor, index n, double* x) const { solve_cholesky<Passes>(factor, n, n, x); }

 private:
  // Restores what the interrupted factorisation overwrote, from the upper triangle, which it leaves alone.
  static void leave_out(double* matrix, index n, index gone) {
    for (index i = gone + 1; i < n; ++i) matrix[gone * n + i] = 0;
    for (index i = gone; i < n && i < gone + 4; ++i) {
      for (index c = 0; c < i; ++c) matrix[i * n + c] = i == gone || c == gone ? 0 : matrix[c * n + i];
      matrix[i * n + i] = 1;
    }
    for (index i = gone + 4; i < n; ++i) matrix[i * n + gone] = 0;
    for (index c = 0; c < gone; ++c) matrix[c * n + gone] = 0;
  }
};

template <class Passes>
void listen(const SerialTeam<Passes>&, index work) {
  Passes::pause(work);
}

SPARSESVM_END
