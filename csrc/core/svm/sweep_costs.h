// Which of sweeps and Newton steps is worth its time in the solver of the dual: estimates from the last working set and the last gaps.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/svm/dual_state.h"
#include "core/svm/newton.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class SweepCosts {
 public:
  SweepCosts(const Task<T>& task, const DualState<Passes, T>& state) : task_(task), state_(state) {}

  static constexpr index max_sweeps = 8;

  index swept_groups = -1;  // of the last working set swept over; none yet
  double gap_before = 0;    // before the last round of sweeps

  // Whether a Newton step by conjugate gradients is cheaper than one by the dense model.
  bool operator_pays(index n_candidates) const {
    if (NewtonStep<Passes, T>::by_gram(task_) || swept_groups < 0) return false;
    return n_candidates < 0 || operator_step_in_sweeps() < step_in_sweeps(n_candidates);
  }

  // Whether another round of sweeps is likely to lower the gap more than a Newton step would in the same time: by ten with the dense
  // model, by a hundred where the hinge is smooth; where there is neither, whether the last round still helped much. With lambda1 = 0 the
  // Newton step without a matrix takes the time of about two rounds and lowers the gap by a hundred.
  bool sweeps_pay(index n_candidates) const {
    if (swept_groups < 0) return true;
    const double progress = std::log(gap_before / state_.gap);
    if (task_.smoothing > 0 && operator_pays(n_candidates)) return progress * operator_step_in_sweeps() > 4.6 * max_sweeps;
    if (n_candidates < 0) return progress > (task_.lambda1 == 0 ? 2.3 : 0.5);
    return progress * step_in_sweeps(n_candidates) > 2.3 * max_sweeps;
  }

  // Two, and more where they cost little beside the last Newton step, which had so many candidates.
  index sweeps_between_steps(index n_candidates) const {
    const double sweeps = 2 + 0.04 * step_in_sweeps(n_candidates);
    return sweeps < max_sweeps ? static_cast<index>(sweeps) : max_sweeps;
  }

 private:
  // Time of a Newton step with so many candidates, in sweeps over the last working set; measured within a factor of two.
  double step_in_sweeps(index n_candidates) const {
    const double size = static_cast<double>(n_candidates), groups = static_cast<double>(swept_groups);
    const double width = groups * static_cast<double>(task_.group_size), way = static_cast<double>(task_.k);
    const double step = size * size * (0.25 * size + groups);
    return step / (2 * static_cast<double>(task_.n) * way * (8 * width + 50 * way));
  }

  // Time of a Newton step by conjugate gradients, in sweeps. A product passes over the working set twice, half a sweep; the line search
  // and what follows count as four. For a hundredth of the residual it takes sqrt(condition) ln(200) / 2 products. The smoothing term is
  // a bound on the smallest eigenvalue; without it there is none. The largest of F F' is estimated by the Rayleigh quotient
  // ||V||^2 / ||diag(c) Y - A||^2: the residual follows the classes, as the largest eigenvalues do, and the few above take a product
  // each.
  double operator_step_in_sweeps() const {
    if (!(task_.smoothing > 0)) return 1e300;
    const index k = task_.k;
    double image = 0, residual = 0;
    for (index b = 0; b < task_.n_groups; ++b) image += state_.norm[b] * state_.norm[b];
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < k; ++l) {
        const double r = (task_.label[i] == l ? task_.weight[i] : 0.0) - state_.dual[i * k + l];
        residual += r * r;
      }
    }
    if (!(residual > 0)) return 1e300;
    return 0.5 * (4 + 2.65 * std::sqrt(1 + image / (residual * task_.lambda2 * task_.smoothing)));
  }

  const Task<T>& task_;
  const DualState<Passes, T>& state_;
};

SPARSESVM_END
