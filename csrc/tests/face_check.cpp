// Newton steps on faces from which many entries vanish, some determined by the others: prints on how many more of them vanished
// than are kept at zero, and exits with 1 when a sample's sum changes, an entry turns negative or NaN, or the model does not fall.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "core/svm/candidates.h"
#include "core/svm/face.h"
#include "cpu/passes.h"

namespace sparsesvm::testing {
namespace {

struct Sizes {
  index n, k, rank;
  bool twice;  // the second half of the samples repeats the first but for 1e-5 of it
};

class Model {
 public:
  Model(const Sizes& s, std::mt19937& generator) : s_(s), start_(s.n + 1), label_(s.n * s.k), x_(count(), 1.0 / s.k), q_(count()) {
    std::normal_distribution<double> normal;
    std::vector<double> factor(count() * s.rank);
    for (double& value : factor) value = normal(generator);
    const index half = s.n / 2 * s.k * s.rank;
    for (index e = 0; s.twice && e < half; ++e) factor[half + e] = factor[e] * (1 + 1e-5 * normal(generator));
    matrix_.resize(count() * count());
    for (index a = 0; a < count(); ++a) {
      for (index b = 0; b < count(); ++b) {
        for (index c = 0; c < s.rank; ++c) matrix_[a * count() + b] += factor[a * s.rank + c] * factor[b * s.rank + c];
      }
    }
    for (double& value : q_) value = 30 * normal(generator);
    for (index i = 0; i <= s.n; ++i) start_[i] = i * s.k;
    for (index e = 0; e < count(); ++e) label_[e] = e % s.k;
  }

  // Minimises on the face of all entries; false when what it leaves is no better feasible point. `overflowed`: more entries vanished than
  // are kept at zero.
  bool minimise(bool& overflowed) {
    Arena counted(nullptr, 0);
    FaceScratch::take(counted, s_.n, s_.k, count(), count());
    std::vector<double> memory(counted.used() / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN());
    Arena arena(memory.data(), counted.used());
    FaceScratch scratch = FaceScratch::take(arena, s_.n, s_.k, count(), count());
    scratch.vanished[FaceScratch::max_bound - 1] = -1;
    const std::vector<double> totals(s_.n, 1.0), before_x = x_, before_q = q_;
    const DenseHessian hessian{matrix_.data(), count()};
    const Candidates candidates{s_.n, start_.data(), label_.data()};
    Face<Passes, DenseHessian>(hessian, candidates, totals.data(), x_.data(), q_.data(), scratch).minimise(0.0);
    index zeros = 0;
    double change = 0;  // of the model's value, (q + q')'(x' - x) / 2
    for (index a = 0; a < count(); ++a) {
      zeros += x_[a] == 0;
      change += 0.5 * (before_q[a] + q_[a]) * (x_[a] - before_x[a]);
    }
    overflowed = zeros > FaceScratch::max_bound && scratch.vanished[FaceScratch::max_bound - 1] >= 0;
    return change < 0 && is_feasible();
  }

 private:
  index count() const { return s_.n * s_.k; }

  bool is_feasible() const {
    for (index i = 0; i < s_.n; ++i) {
      double total = 0, least = 0;
      for (index l = 0; l < s_.k; ++l) {
        total += x_[i * s_.k + l];
        least = std::fmin(least, x_[i * s_.k + l]);
      }
      if (!(std::fabs(total - 1) < 1e-12) || least < 0) return false;
    }
    return true;
  }

  Sizes s_;
  std::vector<index> start_, label_;
  std::vector<double> x_, q_, matrix_;
};

}  // namespace
}  // namespace sparsesvm::testing

int main() {
  using namespace sparsesvm::testing;
  std::mt19937 generator(0);
  int wrong = 0, overflowed = 0;
  for (int problem = 0; problem < 120; ++problem) {
    const Sizes sizes{problem % 3 == 0 ? 60 : 24, problem % 2 == 0 ? 8 : 3, problem % 5 == 0 ? 500 : 5 + problem % 40, problem % 4 < 2};
    bool many = false;
    wrong += !Model(sizes, generator).minimise(many);
    overflowed += many;
  }
  std::printf("%d wrong, %d overflowed\n", wrong, overflowed);
  return wrong > 0;
}
