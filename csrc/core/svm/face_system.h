// The face system of the derivatives: for a right-hand side R, the matrix Q (n, k) on the face with F D (Q'F)' / lambda2 + smoothing
// equal to R there. "There": at the free dual entries, up to a constant per sample (docs/method.md, 6).
//
// Small systems are factored in coordinates Z of the face, H = Z' (F D F' / lambda2 + smoothing) Z; where products are much cheaper,
// conjugate gradients solve them without a matrix. Z = E M^(-1/2): E eliminates each sample's largest entry, and M = E'E makes Z
// orthonormal. Where the system is singular
// (duplicate samples, samples that are zero on every active group, centred features) the solution of smallest ||Q|| is taken. What
// rounding of the features leaves of a direction without curvature counts as none.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/linear_algebra/conjugate_gradients.h"
#include "core/linear_algebra/smallest_solution.h"
#include "core/macros.h"
#include "core/svm/active_panel.h"
#include "core/svm/face_rules.h"
#include "core/svm/task.h"
#include "core/team.h"

SPARSESVM_BEGIN

// Larger systems are never factored.
constexpr index max_face_size = 2048;

template <class Passes, typename T>
class FaceSystem {
 public:
  FaceSystem(const Batch<T>& batch, index panel_stride, Arena& arena)
      : dense_size_(largest_dense(batch)), dense_system_(dense_size_, arena) {
    const index n = batch.n_samples, k = batch.n_way, face = largest_face(batch);
    base_ = arena.take<index>(n);
    shift_ = arena.take<double>(n);
    sample_ = arena.take<index>(face);
    label_ = arena.take<index>(face);
    alpha_ = arena.take<double>(face);
    reduced_ = arena.take<double>(face);
    square_ = n < max_face_size ? n : max_face_size;
    gram_ = arena.take<double>(square_ * square_);
    strip_ = arena.take<double>(dense_size_ * (panel_stride / batch.group_size));
    root_ = arena.take<double>(panel_stride);
    on_ = arena.take<char>(n * k);
    free_ = arena.take<index>(n);
    row_ = arena.take<index>(face);
    iterate_ = arena.take<double>(n * k);
    rhs_ = arena.take<double>(n * k);
    part_ = arena.take<double>(n * k);
    residual_ = arena.take<double>(n * k);
    direction_ = arena.take<double>(n * k);
    image_ = arena.take<double>(n * k);
    flat_ = arena.take<double>(n * k);
    x_ = arena.take<double>(k * (batch.n_features > square_ ? batch.n_features : square_));
    row_of_ = arena.take<const double*>(n);
    packed_ = arena.take<T>(n * batch.n_features);
    packed_row_ = arena.take<const T*>(n);
  }

  // The face: exact zeros of the dual (n_samples, k), rows `stride` apart, stay zero. `n_columns` are active.
  void bind(const Task<T>& task, const T* dual, index stride, index n_columns) {
    task_ = &task;
    n_columns_ = n_columns;
    const index k = task.k;
    size_ = n_free_ = 0;
    for (index i = 0; i < task.n; ++i) {
      const T* row = dual + task.sample[i] * stride;
      index base = 0;
      for (index l = 1; l < k; ++l) base = row[l] > row[base] ? l : base;
      base_[i] = base;
      const index before = size_;
      for (index l = 0; l < k; ++l) {
        on_[n_free_ * k + l] = row[l] > 0;
        if (l == base || !(row[l] > 0)) continue;
        sample_[size_] = i;
        row_[size_] = n_free_;
        label_[size_++] = l;
      }
      shift_[i] = orthonormal_shift(size_ - before);
      if (size_ > before) free_[n_free_++] = i;
    }
    choose_method();
    clear();
  }

  // Once all panels are added: factors what is small enough, and finds the directions without curvature. The panel is used where no
  // matrix has been added up.
  void factor(ActivePanel<T>& panel) {
    if (size_ == 0) return;
    if (!dense_) {
      by_gram_ ? mirror_gram() : pack(panel);
      return;
    }
    complete();
    dense_system_.factor(size_, flat_curvature<T>(task_->n, size_));
  }

  // Takes the part along directions without curvature from a matrix (n, k): there the dual is not unique. After `factor`; the panel is
  // used where no matrix has been added up.
  void remove_flat(ActivePanel<T>& panel, double* matrix) {
    if (size_ == 0) return;
    if (!dense_) {
      remove_flat_iteratively(panel, matrix);
      return;
    }
    reduce(matrix, reduced_);
    for (index f = 0; f < size_; ++f) alpha_[f] = reduced_[f];
    dense_system_.project(alpha_);
    for (index f = 0; f < size_; ++f) alpha_[f] -= reduced_[f];
    add_expanded(alpha_, matrix);
  }

  // Adds the panel's part: (1 - t) F F' shared by the classes, and t b b' per group with b_(i, l) = <f_i, u_l - u_base>. Overwrites
  // the features of the panel.
  void add(ActivePanel<T>& panel) {
    if (!is_summed()) return;
    const index g = task_->group_size, groups = panel.groups, width = panel.width;
    for (index j = 0; j < width; ++j) root_[j] = 1;
    if (task_->lambda1 > 0) {
      const index stride = panel.stride / g;
      for (index p = 0; p < groups; ++p) root_[p] = std::sqrt(1 - panel.keep[p]);
      panel.with_features([&](const auto* const* rows) {
        for (index f = 0; f < size_; ++f) {
          const auto* row = rows[sample_[f]];
          const double* u = panel.u + label_[f] * panel.stride;
          const double* u_base = panel.u + base_[sample_[f]] * panel.stride;
          double* product = strip_ + f * stride;
          if (g == 1) {
            for (index p = 0; p < groups; ++p) product[p] = root_[p] * static_cast<double>(row[p]) * (u[p] - u_base[p]);
          } else {
            for (index p = 0; p < groups; ++p) {
              double total = 0;
              for (index j = p * g; j < (p + 1) * g; ++j) total += static_cast<double>(row[j]) * (u[j] - u_base[j]);
              product[p] = root_[p] * total;
            }
          }
        }
      });
      Passes::add_rank_update(strip_, size_, stride, groups, 1.0, dense_system_.matrix, size_);
      for (index p = 0; p < groups; ++p) {
        for (index j = p * g; j < (p + 1) * g; ++j) root_[j] = std::sqrt(panel.keep[p]);
      }
    }
    // Samples that are not free have no part in the system; the rows of the others move up.
    panel.with_features([&](const auto* const* rows) {
      for (index r = 0; r < n_free_; ++r) {
        const auto* from = rows[free_[r]];
        double* to = panel.f + r * panel.stride;
        for (index j = 0; j < width; ++j) to[j] = root_[j] * static_cast<double>(from[j]);
      }
    });
    Passes::add_rank_update(panel.f, n_free_, panel.stride, width, 1.0, gram_, n_free_);
  }

  // q (n, k), for the right-hand side (n, k), after `factor`. The panel is used where no matrix has been added up.
  void solve(ActivePanel<T>& panel, const double* right, double* q) {
    for (index e = 0; e < task_->n * task_->k; ++e) q[e] = 0;
    if (size_ == 0) return;
    if (!dense_) {
      if (solve_iteratively(panel, right, q) || size_ > dense_size_) return;
      for (index e = 0; e < task_->n * task_->k; ++e) q[e] = 0;
      dense_ = true;
      clear();
      for (index p = 0; p < panel.n_active;) {
        p = panel.load(p);
        add(panel);
      }
      factor(panel);
    }
    reduce(right, reduced_);
    dense_system_.solve(reduced_, alpha_);
    add_expanded(alpha_, q);
  }

 private:
  static index largest_face(const Batch<T>& batch) { return batch.n_samples * (batch.n_way > 1 ? batch.n_way - 1 : 1); }
  static index largest_dense(const Batch<T>& batch) {
    const index face = largest_face(batch);
    return face < max_face_size ? face : max_face_size;
  }

  // A factor costs size^3 / 3 and the matrix size^2 per group; conjugate gradients need two products with the active columns per
  // iteration, or one with the Gram matrix, and seldom more than the usual iterations. Measured, their operations take 2 to 4
  // times as long.
  void choose_method() {
    constexpr double usual = usual_iterations;
    const double r = static_cast<double>(size_), n = static_cast<double>(n_free_), k = static_cast<double>(task_->k);
    const double groups = task_->lambda1 > 0 ? static_cast<double>(n_columns_ / task_->group_size) : 0.0;
    const double factored = r * r * (r / 3 + groups);
    by_gram_ = task_->lambda1 == 0 && n_free_ <= square_ && n_free_ < 2 * n_columns_;
    const double product = n * k * (by_gram_ ? n + 20 : 2 * static_cast<double>(n_columns_) + 20);
    dense_ = size_ <= dense_size_ && factored < 3 * usual * product;
    max_iterations_ = (size_ <= dense_size_ ? 3 : 20) * usual_iterations;
  }

  // Whether `add` adds anything up.
  bool is_summed() const { return size_ > 0 && (dense_ || by_gram_); }

  void clear() {
    if (!is_summed()) return;
    if (dense_) {
      for (index e = 0; e < size_ * size_; ++e) dense_system_.matrix[e] = 0;
    }
    for (index e = 0; e < n_free_ * n_free_; ++e) gram_[e] = 0;
  }

  // out = Z' matrix
  void reduce(const double* matrix, double* out) const {
    const index k = task_->k;
    for (index f = 0; f < size_; ++f) out[f] = matrix[sample_[f] * k + label_[f]] - matrix[sample_[f] * k + base_[sample_[f]]];
    make_orthonormal(out);
  }

  // matrix += Z x; overwrites x.
  void add_expanded(double* x, double* matrix) const {
    const index k = task_->k;
    make_orthonormal(x);
    for (index f = 0; f < size_; ++f) {
      matrix[sample_[f] * k + label_[f]] += x[f];
      matrix[sample_[f] * k + base_[sample_[f]]] -= x[f];
    }
  }

  // x = M^(-1/2) x. The entries of a sample follow each other; among them M is one plus the identity.
  void make_orthonormal(double* x) const {
    for (index first = 0, end = 0; first < size_; first = end) {
      double total = 0;
      for (end = first; end < size_ && sample_[end] == sample_[first]; ++end) total += x[end];
      total *= shift_[sample_[first]];
      for (index f = first; f < end; ++f) x[f] -= total;
    }
  }

  // Adds what the classes share and the smoothing, and goes over to orthonormal coordinates: the matrix then holds H.
  void complete() {
    const index r = size_, n = n_free_;
    const double inverse = 1 / task_->lambda2;
    double* system = dense_system_.matrix;
    for (index a = 0; a < r; ++a) {
      const index i = sample_[a], la = label_[a], ba = base_[i];
      for (index b = 0; b <= a; ++b) {
        const index i2 = sample_[b], lb = label_[b], bb = base_[i2];
        const double kernel = gram_[row_[a] * n + row_[b]];
        double value = system[a * r + b] + kernel * ((la == lb) - (la == bb) - (ba == lb) + (ba == bb));
        value *= inverse;
        if (i == i2) value += task_->smoothing / task_->weight[i] * ((la == lb) + 1);
        system[a * r + b] = system[b * r + a] = value;
      }
    }
    for (index a = 0; a < r; ++a) make_orthonormal(system + a * r);
    for (index first = 0, end = 0; first < r; first = end) {  // the same to the columns
      for (index b = 0; b < r; ++b) reduced_[b] = 0;
      for (end = first; end < r && sample_[end] == sample_[first]; ++end) {
        for (index b = 0; b < r; ++b) reduced_[b] += system[end * r + b];
      }
      const double shift = shift_[sample_[first]];
      for (index a = first; a < end; ++a) {
        for (index b = 0; b < r; ++b) system[a * r + b] -= shift * reduced_[b];
      }
    }
  }

  // False when conjugate gradients do not converge. They know the free samples only.
  bool solve_iteratively(ActivePanel<T>& panel, const double* right, double* q) {
    const index k = task_->k, size = n_free_ * k;
    double rounding = 0;
    for (index e = 0; e < size; ++e) {
      rhs_[e] = right[free_[e / k] * k + e % k];
      rounding += 1e-31 * rhs_[e] * rhs_[e];
    }
    const bool converged = iterate(panel, rounding);
    for (index e = 0; e < size; ++e) q[free_[e / k] * k + e % k] = iterate_[e];
    return converged;
  }

  // What is left of the matrix on the face after a solution of H x = H matrix has no curvature.
  void remove_flat_iteratively(ActivePanel<T>& panel, double* matrix) {
    if (task_->smoothing > 0) return;  // which is curvature
    const index k = task_->k, size = n_free_ * k;
    for (index e = 0; e < size; ++e) direction_[e] = matrix[free_[e / k] * k + e % k];
    project(direction_);
    for (index e = 0; e < size; ++e) part_[e] = direction_[e];
    apply(panel);
    for (index e = 0; e < size; ++e) rhs_[e] = image_[e];
    if (!iterate(panel, 0.0)) return;
    for (index e = 0; e < size; ++e) matrix[free_[e / k] * k + e % k] += iterate_[e] - part_[e];
  }

  // iterate_ = the solution for rhs_, which leaves at most `rounding` of its square.
  bool iterate(ActivePanel<T>& panel, double rounding) {
    return solve_singular(
        OneThread{}, n_free_ * task_->k, rounding, flat_curvature<T>(task_->n, size_), max_iterations_, [&] { apply(panel); },
        [this](double* x) { project(x); }, rhs_, iterate_, {residual_, direction_, image_}, flat_);
  }

  // image = the system times direction.
  void apply(ActivePanel<T>& panel) {
    const index n = n_free_, k = task_->k;
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) image_[i * k + l] = task_->smoothing / task_->weight[free_[i]] * direction_[i * k + l];
    }
    if (by_gram_) {
      for (index i = 0; i < n; ++i) row_of_[i] = gram_ + i * n;
      Passes::combine_rows(row_of_, n, direction_, k, n, x_, n);
      for (index i = 0; i < n; ++i) {
        for (index l = 0; l < k; ++l) image_[i * k + l] += x_[l * n + i] / task_->lambda2;
      }
    } else {
      // Few and long passes: threads are woken once for each.
      for (index i = 0; i < n; ++i) packed_row_[i] = packed_ + i * n_columns_;
      Passes::combine_rows(packed_row_, n, direction_, k, n_columns_, x_, n_columns_);
      for (index p = 0; p < panel.n_active;) {
        double* columns = x_ + p * task_->group_size;
        p = panel.whole() ? panel.n_active : panel.load_link(p);
        panel.apply_link_derivative(columns, columns, n_columns_);
      }
      Passes::add_all_products(packed_row_, n, x_, n_columns_, k, n_columns_, 1.0, image_);
    }
  }

  // Copies the active columns side by side, as every iteration reads them.
  void pack(ActivePanel<T>& panel) {
    for (index p = 0; p < panel.n_active;) {
      const index first = p * task_->group_size;
      p = panel.load_link(p);
      for (index i = 0; i < n_free_; ++i) panel.gather(task_->rows[free_[i]], packed_ + i * n_columns_ + first);
    }
  }

  // Onto the face: zero off it, and of sum zero for each sample.
  void project(double* x) const {
    const index k = task_->k;
    for (index i = 0; i < n_free_; ++i) {
      const char* on = on_ + i * k;
      double *row = x + i * k, total = 0, support = 0;
      for (index l = 0; l < k; ++l) {
        total += on[l] ? row[l] : 0.0;
        support += on[l] ? 1.0 : 0.0;
      }
      const double mean = total / support;
      for (index l = 0; l < k; ++l) row[l] = on[l] ? row[l] - mean : 0.0;
    }
  }

  // The upper triangle from the lower.
  void mirror_gram() {
    const index n = n_free_;
    for (index i = 0; i < n; ++i) {
      for (index j = 0; j < i; ++j) gram_[j * n + i] = gram_[i * n + j];
    }
  }

  const Task<T>* task_ = nullptr;
  index size_ = 0, max_iterations_ = 0, n_columns_ = 0;
  index n_free_ = 0;        // samples with two entries in use or more
  index dense_size_;  // the largest that is factored
  SmallestSolution<Passes> dense_system_;
  index square_;            // free samples whose products are kept, at most
  bool dense_ = true;       // factored, rather than solved by conjugate gradients
  bool by_gram_ = false;    // which multiply with the products of the samples, rather than with the features
  index *base_;             // (n) eliminated class of each sample
  double* shift_;           // (n) M^(-1/2) is the identity less this on the entries of a sample
  index *sample_, *label_;  // (size) the free coordinates
  index* row_;              // (size) positions of their samples among the free ones
  index* free_;             // (free samples)
  char* on_;                // (free samples, k) entries of the face
  double *alpha_, *reduced_, *strip_, *root_, *x_;
  double* gram_;            // (free samples, free samples)
  double *iterate_, *rhs_, *part_, *residual_, *direction_, *image_, *flat_;  // (free samples, k)
  const double** row_of_;
  T* packed_;              // (n, active columns)
  const T** packed_row_;
};

SPARSESVM_END
