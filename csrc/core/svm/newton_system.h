// The Newton system of the primal model on the active columns:
//
//     (H0 + F' S F) d = r,   H0 = (mu + b) I - b u u' group by group,   S = w (diag(s) - s s' / |s|) sample by sample,
//
// solved on its smaller side: as it stands, (k - 1) x columns unknowns; by the Woodbury identity in the free dual entries; or by
// conjugate gradients where that is cheaper than a factor, preconditioned by an earlier factor or without one. Vectors are (columns,
// k - 1), in the coordinates of ClassBasis.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/linear_algebra/cholesky.h"
#include "core/linear_algebra/conjugate_gradients.h"
#include "core/macros.h"
#include "core/svm/class_basis.h"
#include "core/svm/free_coordinates.h"
#include "core/svm/free_samples.h"
#include "core/svm/problem.h"

SPARSESVM_BEGIN

template <class Passes, typename T, class Features>
class NewtonSystem {
 public:
  NewtonSystem(const Batch<T>& batch, Features& features, const ClassBasis& basis, const FreeSamples& free, Arena& arena)
      : q_(batch.n_way - 1), k_(batch.n_way), g_(batch.group_size), features_(features), basis_(basis), free_(free),
        largest_(largest_factor(batch)), coordinates_(batch.n_samples, k_, largest_, basis, free, arena) {
    const index n = batch.n_samples, m = batch.n_features;
    // Columns of a primal factor, free samples of a dual one.
    const index columns = q_ > 0 ? largest_ / q_ : 0, samples = n < largest_ ? n : largest_;
    square_ = columns > samples ? columns : samples;
    column = arena.template take<typename Features::Column>(m);
    unit = arena.take<double>(m * q_);
    along = arena.take<double>(m / g_);
    across = arena.take<double>(m / g_);
    preconditioner_ = arena.take<double>(m / g_);
    matrix_ = arena.take<double>(largest_ * largest_);
    kernel_ = arena.take<double>(square_ * square_);
    panel_stride_ = g_ > panel_width ? g_ : panel_width;
    panel_ = arena.take<double>(square_ * panel_stride_);
    strip_ = arena.take<double>(largest_ * panel_width);
    block_ = arena.take<double>(q_ * q_ + k_);
    rhs_ = arena.take<double>(largest_);
    diagonal_ = arena.take<double>(largest_);
    residual_ = arena.take<double>(m * q_);
    direction_ = arena.take<double>(m * q_);
    image_ = arena.take<double>(m * q_);
    conditioned_ = arena.take<double>(m * q_);
    z_ = arena.take<double>(n * q_);
    bent_ = arena.take<double>(n * q_);
    curvature_ = arena.take<double>(n);
    dual_ = arena.take<double>(5 * largest_);
  }

  // H0 of group p: its inverse is `along` in the direction of the unit block and `across` elsewhere.
  typename Features::Column* column;  // (n_columns) over the free samples
  double* unit;                       // (n_columns, k - 1)
  double* along;                      // (groups) 1 / mu
  double* across;                     // (groups) 1 / (mu + b)
  index n_groups = 0;

  void set_groups(index count) {
    n_groups = count;
    n_columns_ = count * g_;
  }

  // d = the solution, to a share `accuracy` of the residual where it is iterated.
  void solve(const double* right, double accuracy, double* d) {
    const double primal = primal_cost(), dual = dual_cost(), direct = primal < dual ? primal : dual;
    const double entries = Features::entries(column, n_columns_, free_.count), way = static_cast<double>(k_);
    const double product = 3 * (4 * entries * static_cast<double>(q_) + 10 * static_cast<double>(free_.count) * way) + 2000;
    spent = direct;
    double budget = direct / product;
    budget = budget > max_products ? max_products : budget;
    if (budget > worth_trying && !(difficult_ && direct < 1e300)) {
      if (iterate(right, accuracy, static_cast<index>(budget), d) || direct >= 1e300) return;
      difficult_ = true;
    }
    if (primal <= dual) {
      solve_primal(right, d);
      return;
    }
    coordinates_.list();
    if (direct > worth_keeping && iterate_on_dual(right, direct, product, d)) return;
    solve_dual(right, d);
    if (direct > worth_keeping) {
      coordinates_.keep();
    } else {
      coordinates_.drop_kept();
    }
  }

  double spent = 0;  // operations of the last solution

  // Of a factored solution.
  double direct_cost() const { return primal_cost() < dual_cost() ? primal_cost() : dual_cost(); }

  // Whether a solution takes a factor, and that more than some 20 ms.
  bool dear() const { return difficult_ && direct_cost() > worth_keeping; }

  // A new model family (other rho or sigma) may be easier.
  void forget() { difficult_ = false; }

  // Another task comes.
  void start() { coordinates_.drop_kept(); }

  // out (k - 1, free samples) = S F x
  void scores(const double* x, double* out) {
    const index f = free_.count;
    features_.combine(column, n_columns_, f, x, q_, z_);
    free_.bend(basis_, z_, out);
  }

  // out = F' s for s (k - 1, free samples)
  void pull(const double* s, double* out) { features_.pull(column, n_columns_, free_.count, s, q_, out); }

  // out = F' S F x
  void multiply(const double* x, double* out) {
    scores(x, bent_);
    pull(bent_, out);
  }

  // out += H0 x
  void add_penalty(const double* x, double* out) const {
    for (index p = 0; p < n_groups; ++p) {
      const double strong = 1 / across[p], weak = 1 / along[p];
      bend_group(p, x, strong, weak - strong, out, true);
    }
  }

  // out = H0^-1 x
  void divide_penalty(const double* x, double* out) const {
    for (index p = 0; p < n_groups; ++p) bend_group(p, x, across[p], along[p] - across[p], out, false);
  }

  static constexpr index max_factored = 3000;

 private:
  double primal_cost() const {
    if (n_columns_ * q_ > largest_ || n_columns_ > square_) return 1e300;
    const double w = static_cast<double>(n_columns_), size = w * static_cast<double>(q_);
    return (static_cast<double>(free_.count) + static_cast<double>(free_.n_runs * q_ * q_)) * w * w + size * size * size / 3;
  }

  double dual_cost() const {
    if (free_.coordinates > largest_ || free_.count > square_) return 1e300;
    const double f = static_cast<double>(free_.count), e = static_cast<double>(free_.coordinates);
    return f * f * static_cast<double>(n_columns_) + e * e * (static_cast<double>(n_groups) + e / 3);
  }

  static constexpr index panel_width = 256;
  static constexpr double worth_trying = 12, max_products = 500;

  // Of solutions by an earlier factor, which pay where one takes more than some 20 ms: operations from which one is kept, share of
  // the coordinates that may have come and gone since, accuracy, and what an entry of it costs, read from memory in each solution.
  static constexpr double worth_keeping = 1e9, max_change = 0.03, kept_accuracy = 1e-4, triangular = 40;

  static index largest_factor(const Batch<T>& batch) {
    const index smaller = (batch.n_way - 1) * (batch.n_samples < batch.n_features ? batch.n_samples : batch.n_features);
    return smaller < max_factored ? smaller : max_factored;
  }

  void bend_group(index p, const double* x, double straight, double extra, double* out, bool add) const {
    const index first = p * g_ * q_, last = (p + 1) * g_ * q_;
    double inner = 0;
    for (index e = first; e < last; ++e) inner += unit[e] * x[e];
    inner *= extra;
    for (index e = first; e < last; ++e) out[e] = (add ? out[e] : 0.0) + straight * x[e] + inner * unit[e];
  }

  // Preconditioned by H0 plus the mean diagonal of F' S F in each group.
  bool iterate(const double* right, double accuracy, index limit, double* d) {
    const index size = n_columns_ * q_, f = free_.count;
    for (index i = 0; i < f; ++i) curvature_[i] = free_.weight[i] * (1 - free_.inverse[i]) / free_.inverse[i];
    for (index p = 0; p < n_groups; ++p) {
      double total = 0;
      for (index j = p * g_; j < (p + 1) * g_; ++j) features_.add_square_products(column[j], f, curvature_, 1, &total);
      preconditioner_[p] = total / static_cast<double>(g_ * q_);
    }
    for (index e = 0; e < size; ++e) residual_[e] = right[e];
    const auto apply = [this] {
      multiply(direction_, image_);
      add_penalty(direction_, image_);
    };
    return preconditioned_gradients(
        size, accuracy, limit, apply, [this] { divide_preconditioner(residual_, conditioned_); }, d, conditioned_,
        {residual_, direction_, image_});
  }

  void divide_preconditioner(const double* x, double* out) const {
    for (index p = 0; p < n_groups; ++p) {
      const double strong = 1 / (1 / across[p] + preconditioner_[p]), weak = 1 / (1 / along[p] + preconditioner_[p]);
      bend_group(p, x, strong, weak - strong, out, false);
    }
  }

  // The matrix over (class, column), run by run of equal supports.
  void solve_primal(const double* right, double* d) {
    coordinates_.drop_kept();
    const index w = n_columns_, size = w * q_;
    for (index a = 0; a < q_; ++a) {
      for (index j = 0; j < w; ++j) {
        double* row = matrix_ + (a * w + j) * size;
        for (index e = 0; e <= a * w + j; ++e) row[e] = 0;
      }
    }
    for (index t = 0; t < free_.n_runs; ++t) add_run(free_.run[t], free_.run[t + 1]);
    for (index p = 0; p < n_groups; ++p) {
      const double strong = 1 / across[p], extra = 1 / along[p] - strong;
      for (index j = p * g_; j < (p + 1) * g_; ++j) {
        for (index a = 0; a < q_; ++a) {
          double* row = matrix_ + (a * w + j) * size;
          row[a * w + j] += strong;
          for (index j2 = p * g_; j2 < (p + 1) * g_; ++j2) {
            for (index b = 0; b <= a; ++b) {
              if (b * w + j2 <= a * w + j) row[b * w + j2] += extra * unit[j * q_ + a] * unit[j2 * q_ + b];
            }
          }
        }
      }
    }
    factor(size);
    for (index j = 0; j < w; ++j) {
      for (index a = 0; a < q_; ++a) rhs_[a * w + j] = right[j * q_ + a];
    }
    solve_cholesky<Passes>(matrix_, size, size, rhs_);
    for (index j = 0; j < w; ++j) {
      for (index a = 0; a < q_; ++a) d[j * q_ + a] = rhs_[a * w + j];
    }
  }

  // The factor goes to the lower triangle; the upper one keeps the matrix for the rare case that rounding makes a pivot vanish.
  void factor(index size) {
    double largest = 0;
    for (index a = 0; a < size; ++a) {
      diagonal_[a] = matrix_[a * size + a];
      largest = diagonal_[a] > largest ? diagonal_[a] : largest;
      for (index b = 0; b < a; ++b) matrix_[b * size + a] = matrix_[a * size + b];
    }
    for (double ridge = 1e-15 * largest; factor_cholesky<Passes>(matrix_, size, size, 0.0) < size; ridge *= 100) {
      for (index a = 0; a < size; ++a) {
        for (index b = 0; b < a; ++b) matrix_[a * size + b] = matrix_[b * size + a];
        matrix_[a * size + a] = diagonal_[a] + ridge;
      }
    }
  }

  // The kernel of the samples first .. last - 1, which share their support, added to each pair of classes.
  void add_run(index first, index last) {
    const index w = n_columns_, size = w * q_;
    for (index e = 0; e < w * w; ++e) kernel_[e] = 0;
    double* root = curvature_;
    for (index i = first; i < last; ++i) root[i] = std::sqrt(free_.weight[i]);
    for (index start = first; start < last; start += panel_width) {
      const index count = last - start < panel_width ? last - start : panel_width;
      for (index j = 0; j < w; ++j) {
        double* row = panel_ + j * panel_width;
        for (index t = 0; t < count; ++t) row[t] = 0;
        Features::visit_part(column[j], start, start + count, [=](index i, double x) { row[i - start] = root[i] * x; });
      }
      Passes::add_rank_update(panel_, w, panel_width, count, 1.0, kernel_, w);
    }
    for (index j = 0; j < w; ++j) {
      for (index j2 = 0; j2 < j; ++j2) kernel_[j2 * w + j] = kernel_[j * w + j2];
    }
    free_.block(basis_, first, block_);
    for (index a = 0; a < q_; ++a) {
      for (index b = 0; b <= a; ++b) {
        const double s = block_[a * q_ + b];
        if (s == 0) continue;
        for (index j = 0; j < w; ++j) {
          double* row = matrix_ + (a * w + j) * size + b * w;
          const double* from = kernel_ + j * w;
          const index end = a == b ? j + 1 : w;
#pragma omp simd
          for (index j2 = 0; j2 < end; ++j2) row[j2] += s * from[j2];
        }
      }
    }
  }

  // (I + B' H0^-1 B) y = B' H0^-1 r, d = H0^-1 (r - B y), with B B' = F' S F.
  void solve_dual(const double* right, double* d) {
    const index size = coordinates_.size;
    fill_dual(size);
    factor(size);
    double total = 0;
    for (index a = 0; a < size; ++a) total += diagonal_[a];
    typical_ = total / static_cast<double>(size);
    divide_penalty(right, d);
    to_dual(d, rhs_);
    solve_cholesky<Passes>(matrix_, size, size, rhs_);
    from_dual(right, rhs_, d);
  }

  // The same by conjugate gradients with the last factor as preconditioner, at most half as long as another one takes. False where that
  // did not do.
  bool iterate_on_dual(const double* right, double direct, double product, double* d) {
    const index size = coordinates_.size, kept = coordinates_.kept;
    if (kept == 0 || static_cast<double>(coordinates_.match()) > max_change * static_cast<double>(size)) return false;
    double *residual = dual_, *direction = dual_ + largest_, *image = direction + largest_, *conditioned = image + largest_,
           *y = conditioned + largest_;
    divide_penalty(right, d);
    to_dual(d, residual);
    const auto apply = [&] {
      coordinates_.scatter(direction, bent_);
      pull(bent_, image_);
      divide_penalty(image_, conditioned_);
      to_dual(conditioned_, image);
      for (index a = 0; a < size; ++a) image[a] += direction[a];
    };
    const auto precondition = [&] {
      coordinates_.divide(residual, typical_, rhs_, [&](double* x) { solve_cholesky<Passes>(matrix_, kept, kept, x); }, conditioned);
    };
    const double step = product + triangular * static_cast<double>(kept * kept), limit = 0.5 * direct / step;
    if (!preconditioned_gradients(size, kept_accuracy, static_cast<index>(limit), apply, precondition, y, conditioned,
                                  {residual, direction, image})) {
      return false;
    }
    spent = 0.3 * direct;  // about, of at most half
    from_dual(right, y, d);
    return true;
  }

  // y = B' x
  void to_dual(const double* x, double* y) {
    features_.combine(column, n_columns_, free_.count, x, q_, z_);
    coordinates_.gather(z_, y);
  }

  // d = H0^-1 (r - B y)
  void from_dual(const double* right, const double* y, double* d) {
    coordinates_.scatter(y, bent_);
    pull(bent_, image_);
    for (index e = 0; e < n_columns_ * q_; ++e) image_[e] = right[e] - image_[e];
    divide_penalty(image_, d);
  }

  void fill_dual(index size) {
    const index f = free_.count;
    for (index e = 0; e < size * size; ++e) matrix_[e] = 0;
    for (index e = 0; e < f * f; ++e) kernel_[e] = 0;
    const index groups_at_once = panel_width / g_ > 0 ? panel_width / g_ : 1;
    for (index p = 0; p < n_groups; p += groups_at_once) {
      const index last = p + groups_at_once < n_groups ? p + groups_at_once : n_groups;
      add_shared(p, last);
      add_units(p, last, size);
    }
    for (index a = 0; a < size; ++a) {
      const index i = coordinates_.sample[a];
      const double* ca = coordinates_.row + a * q_;
      for (index b = 0; b <= a; ++b) {
        const index i2 = coordinates_.sample[b];
        const double* cb = coordinates_.row + b * q_;
        double inner = 0;
        for (index c = 0; c < q_; ++c) inner += ca[c] * cb[c];
        matrix_[a * size + b] += inner * kernel_[i >= i2 ? i * f + i2 : i2 * f + i] + (a == b ? 1.0 : 0.0);
      }
    }
  }

  // kernel_ += sqrt(w w') sum_j across_j f_ij f_i'j over the groups.
  void add_shared(index first, index last) {
    const index f = free_.count, width = (last - first) * g_;
    for (index i = 0; i < f; ++i) {
      for (index j = 0; j < width; ++j) panel_[i * panel_stride_ + j] = 0;
    }
    for (index j = 0; j < width; ++j) {
      const double root = std::sqrt(across[first + j / g_]);
      double* to = panel_ + j;
      Features::visit(column[first * g_ + j], f, [=](index i, double x) { to[i * panel_stride_] = root * std::sqrt(free_.weight[i]) * x; });
    }
    Passes::add_rank_update(panel_, f, panel_stride_, width, 1.0, kernel_, f);
  }

  // matrix_ += the rank-one term of each group.
  void add_units(index first, index last, index size) {
    for (index p = first; p < last; ++p) {
      const double root = std::sqrt(along[p] - across[p]);
      double* to = strip_ + p - first;
      for (index a = 0; a < size; ++a) to[a * panel_width] = 0;
      for (index j = p * g_; j < (p + 1) * g_; ++j) {
        Features::visit(column[j], free_.count, [=](index i, double x) {
          const double scaled = root * std::sqrt(free_.weight[i]) * x;
          for (index a = coordinates_.first[i]; a < coordinates_.first[i + 1]; ++a) {
            double inner = 0;
            for (index b = 0; b < q_; ++b) inner += coordinates_.row[a * q_ + b] * unit[j * q_ + b];
            to[a * panel_width] += scaled * inner;
          }
        });
      }
    }
    Passes::add_rank_update(strip_, size, panel_width, last - first, 1.0, matrix_, size);
  }

  index q_, k_, g_, panel_stride_ = 0;
  Features& features_;
  const ClassBasis& basis_;
  const FreeSamples& free_;
  index n_columns_ = 0, largest_, square_ = 0;
  FreeCoordinates coordinates_;
  bool difficult_ = false;
  double typical_ = 1;  // mean diagonal of the factored matrix
  double *preconditioner_, *matrix_, *kernel_, *panel_, *strip_, *block_, *rhs_, *diagonal_, *residual_, *direction_, *image_;
  double *conditioned_, *z_, *bent_, *curvature_, *dual_;
};

SPARSESVM_END
