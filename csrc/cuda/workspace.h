// The arrays of one team, as pointers into its share of the caller's memory. They are the same for every thread, so that a kernel
// keeps one copy of these structs per block in shared memory.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/svm/class_basis.h"
#include "cuda/task.h"

SPARSESVM_BEGIN
namespace gpu {

#ifndef SPARSESVM_MAX_MODEL_SIZE  // the race check lowers it
#define SPARSESVM_MAX_MODEL_SIZE 2048
#endif
// Entries of a dense model or factor; beyond, the proximal method takes over and conjugate gradients solve.
constexpr int max_model_size = SPARSESVM_MAX_MODEL_SIZE;
constexpr int panel_groups = 128;

template <typename N>
SPARSESVM_HD N smaller(N a, N b) {
  return a < b ? a : b;
}
template <typename N>
SPARSESVM_HD N larger(N a, N b) {
  return a > b ? a : b;
}

// The dual iterate and what follows from it.
struct StateArrays {
  double* dual;           // (n, k) A_i = c_i Lambda_i
  double* scores;         // (n, k) S = F W'
  double* gradient;       // (n, k) of the dual objective with respect to A
  double* coefficients;   // (n, k) diag(c) Y - A
  double* v;              // (k, m)
  double* w;              // (k, m)
  double* norm;           // (groups) of the blocks of V
  double* partial;        // (chunks, n, k)
  double* sample;         // (n, 2 k) scratch, a row per sample
  double* value;          // (n, 2) scratch, what samples add to sums
  double gap, objective;  // of the last certificate

  template <typename T>
  SPARSESVM_HD void take(Arena& arena, const Task<T>& task) {
    const index n = task.n_samples, k = task.k, m = task.m;
    dual = arena.take<double>(n * k);
    scores = arena.take<double>(n * k);
    gradient = arena.take<double>(n * k);
    coefficients = arena.take<double>(n * k);
    v = arena.take<double>(k * m);
    w = arena.take<double>(k * m);
    norm = arena.take<double>(task.n_groups);
    partial = arena.take<double>(task.n_chunks * n * k);
    sample = arena.take<double>(2 * n * k);
    value = arena.take<double>(2 * n);
  }
};

// A panel of columns that a dense matrix is built from, and that matrix's own arrays.
struct PanelArrays {
  double* product;        // (panel_groups, stride) transposed: a row per group
  double* column;         // (panel columns, n) transposed features
  double* group_weight;   // (panel_groups)
  double* column_weight;  // (panel columns)
  int* list;              // (groups)
  int* count;             // (2)
  int product_stride;

  template <typename T>
  SPARSESVM_HD void take(Arena& arena, const Task<T>& task, int rows) {
    const index width = panel_columns(task);
    product_stride = rows;
    product = arena.take<double>(static_cast<index>(panel_groups) * rows);
    column = arena.take<double>(width * task.n_samples);
    group_weight = arena.take<double>(panel_groups);
    column_weight = arena.take<double>(width);
    list = arena.take<int>(task.n_groups);
    count = arena.take<int>(2);
  }

  // Groups per panel, and their columns: about panel_groups columns, at least one group.
  template <typename T>
  SPARSESVM_HD static int groups(const Task<T>& task) {
    return larger(panel_groups / task.g, 1);
  }
  template <typename T>
  SPARSESVM_HD static int panel_columns(const Task<T>& task) {
    return groups(task) * task.g;
  }
};

// The quadratic model of a Newton step. Candidates are the (sample, class) pairs that take part, those of a sample side by side;
// its first one is the reference, and the others, "inner" ones, index the matrix.
struct ModelArrays {
  int* start;         // (n + 1) first candidate of each sample
  int* label;         // (n k) class of each candidate
  int* inner_sample;  // (max_inner) sample of each inner candidate
  double* x;          // (n k) point
  double* q;          // (n k) gradient of the model there
  double* origin;     // (n k) where first-order steps began
  double* point;      // (n k) extrapolated
  double* image;      // (n k) matrix times a step
  double* step;       // (n k)
  double* projected;  // (n k)
  double* matrix;     // (max_inner, max_inner)
  double* gram;       // (gram_size, gram_size)
  double* reduced;    // (max_inner + 1, max_inner + 1) factor on the face
  double* slope;      // (max_inner) down which the free coordinates go
  double* solution;   // (max_inner)
  int* base;          // (n) eliminated candidate of each sample
  int* first_free;    // (n + 1) first of each sample's free candidates
  int* free;          // (max_inner)
  int* free_sample;   // (max_inner)
  double* direction;  // (n, k) of the outer step
  char* on;           // (groups) pieces of the model with positive cost
  char* flip;         // (groups) what a refinement changes: 1 on, 2 off
  double* along;      // (groups) <v_G, dV_G>
  double* square;     // (groups) ||dV_G||^2
  double* value;      // (4) results of the first block for the others
  int max_inner;
  int gram_size;

  template <typename T>
  SPARSESVM_HD void take(Arena& arena, const Task<T>& task) {
    const index n = task.n_samples, k = task.k;
    max_inner = static_cast<int>(smaller<index>(n * larger<index>(k - 1, 1), max_model_size));
    gram_size = static_cast<int>(smaller<index>(n, max_model_size));
    const index square_size = static_cast<index>(max_inner) * max_inner;
    start = arena.take<int>(n + 1);
    label = arena.take<int>(n * k);
    inner_sample = arena.take<int>(max_inner);
    x = arena.take<double>(n * k);
    q = arena.take<double>(n * k);
    origin = arena.take<double>(n * k);
    point = arena.take<double>(n * k);
    image = arena.take<double>(n * k);
    step = arena.take<double>(n * k);
    projected = arena.take<double>(n * k);
    matrix = arena.take<double>(square_size);
    gram = arena.take<double>(static_cast<index>(gram_size) * gram_size);
    reduced = arena.take<double>(square_size + 2 * max_inner + 1);
    slope = arena.take<double>(max_inner);
    solution = arena.take<double>(max_inner);
    base = arena.take<int>(n);
    first_free = arena.take<int>(n + 1);
    free = arena.take<int>(max_inner);
    free_sample = arena.take<int>(max_inner);
    direction = arena.take<double>(n * k);
    on = arena.take<char>(task.n_groups);
    flip = arena.take<char>(task.n_groups);
    along = arena.take<double>(task.n_groups);
    square = arena.take<double>(task.n_groups);
    value = arena.take<double>(4);
  }
};

// The proximal method of multipliers. Matrices over features are (m, k), those over the columns of the working set (columns, k).
template <typename T>
struct ProximalArrays {
  // The iterate and its certificate; coefficients, V and its norms are in StateArrays.
  double *w, *w_centre, *best_w;  // (m, k)
  double *p, *p_centre, *best_p;  // (n, k)
  double *z, *dz;                 // (n, k) scores, and their change along `direction`
  double* by_sample;              // (n, 4) what samples add to sums
  double *square, *sigma;         // (groups) units, and curvature of the proximal term
  double *by_group, *excess;      // (groups) what groups add to sums; how much ||X_G|| exceeds lambda1
  char* flag;                     // (groups)
  double rho, best_primal, best_dual, rounding, loss_gap, penalty_gap;
  // The working set, whose groups PanelArrays lists.
  int n_set;
  T* columns;                                        // (columns, n)
  double *set_w, *centre, *pull, *gradient, *direction;  // (columns, k); `centre` holds sigma W_t
  double* mu;                                        // (groups)
  // The free samples, their free entries and the bases of these.
  int n_free, n_coordinates;
  int *free, *first, *base, *support;         // (n), first (n + 1)
  int *coordinate_free, *coordinate_label;    // (n (k - 1))
  double *free_weight, *inverse;              // (n)
  double* bent;                               // (n, k)
  int* count;                                 // (2)
  // The model of a step, and the Newton system on its active groups.
  ClassBasis basis;
  double *moved, *slope, *step, *right, *image, *unit;  // (columns, k)
  double *curvature, *crossing, *along, *across, *preconditioner;  // (groups)
  int* active;
  double *residual, *conditioned, *search, *product;  // (columns, k)
  double *vector, *reduced_vector;                    // (panel_groups or columns of a group, k)

  SPARSESVM_HD void take(Arena& arena, const Task<T>& task) {
    const index n = task.n_samples, k = task.k, m = task.m, groups = task.n_groups;
    for (double** array : {&w, &w_centre, &best_w, &set_w, &centre, &pull, &gradient, &direction, &moved, &slope, &step, &right,
                           &image, &unit, &residual, &conditioned, &search, &product}) {
      *array = arena.take<double>(m * k);
    }
    for (double** array : {&p, &p_centre, &best_p, &z, &dz, &bent}) *array = arena.take<double>(n * k);
    for (double** array :
         {&square, &sigma, &by_group, &excess, &mu, &curvature, &crossing, &along, &across, &preconditioner}) {
      *array = arena.take<double>(groups);
    }
    by_sample = arena.take<double>(4 * n);
    flag = arena.take<char>(groups);
    columns = arena.take<T>(m * n);
    for (int** array : {&free, &base, &support}) *array = arena.take<int>(n);
    first = arena.take<int>(n + 1);
    for (int** array : {&coordinate_free, &coordinate_label}) *array = arena.take<int>(n * larger<index>(k - 1, 1));
    free_weight = arena.take<double>(n);
    inverse = arena.take<double>(n);
    count = arena.take<int>(2);
    basis = ClassBasis(k, arena);
    active = arena.take<int>(groups);
    vector = arena.take<double>(larger<index>(panel_groups, task.g) * k);
    reduced_vector = arena.take<double>(panel_groups * k);
  }
};

template <typename T>
struct SolveWorkspace {
  Task<T> task;
  StateArrays state;
  ModelArrays model;
  PanelArrays panel;
  ProximalArrays<T> proximal;
  double* best;      // (n, k) dual of the smallest gap
  double* absent;    // (k) one for a class without samples
  double* previous;  // (n, k) first-order iterate

  SPARSESVM_HD void take(Arena& arena, const Batch<T>& batch) {
    task.set_sizes(batch);
    task.take(arena);
    state.take(arena, task);
    model.take(arena, task);
    panel.take(arena, task, larger(model.max_inner, 1));
    const index n = task.n_samples, k = task.k;
    proximal.take(arena, task);
    best = arena.take<double>(n * k);
    absent = arena.take<double>(k);
    previous = arena.take<double>(n * k);
  }
};

// A dense system that may be singular (smallest_solution.h), of at most `largest` unknowns.
struct SmallestArrays {
  double* matrix;  // (size, size)
  double* factor;  // (size + 1, size + 1)
  double* slope;   // (tied, free) flat directions, then the factor of their products (tied + 1, tied + 1)
  double *scale, *right, *step, *solution, *along;  // (size)
  int *free, *tied;                                 // (size) rows that are factored, and those that are left out
  char *is_tied, *is_flat;                          // (size) by row; by tied row

  SPARSESVM_HD void take(Arena& arena, index largest) {
    matrix = arena.take<double>(largest * largest);
    factor = arena.take<double>((largest + 1) * (largest + 1));
    slope = arena.take<double>((largest + 1) * (largest + 1));
    for (double** array : {&scale, &right, &step, &solution, &along}) *array = arena.take<double>(largest);
    for (int** array : {&free, &tied}) *array = arena.take<int>(largest);
    for (char** array : {&is_tied, &is_flat}) *array = arena.take<char>(largest);
  }
};

// The system of the derivatives in the free dual coordinates (core/svm/face_system.h).
struct FaceArrays {
  SmallestArrays dense;
  int* base;      // (n) eliminated class of each sample
  int* first;     // (n + 1) first free coordinate of each sample
  double* shift;  // (n) of the orthonormal coordinates
  int* sample;    // (n (k - 1)) of each free coordinate
  int* label;
  double *alpha, *right, *part, *residual, *direction, *image, *met;  // (n (k - 1))
  double* gram;      // (n, n), where a matrix is built
  double* rows;      // (n, k)
  double* products;  // (n, k)
  int max_size;      // of a matrix; larger systems, and those of too many samples, are solved by conjugate gradients

  template <typename T>
  SPARSESVM_HD void take(Arena& arena, const Task<T>& task) {
    const index n = task.n_samples, k = task.k, size = n * larger<index>(k - 1, 1);
    max_size = n <= max_model_size ? static_cast<int>(smaller<index>(size, max_model_size)) : 0;
    dense.take(arena, max_size);
    base = arena.take<int>(n);
    first = arena.take<int>(n + 1);
    shift = arena.take<double>(n);
    sample = arena.take<int>(size);
    label = arena.take<int>(size);
    for (double** array : {&alpha, &right, &part, &residual, &direction, &image, &met}) *array = arena.take<double>(size);
    gram = arena.take<double>(max_size > 0 ? n * n : 0);
    rows = arena.take<double>(n * k);
    products = arena.take<double>(n * k);
  }
};

template <typename T>
struct DiffWorkspace {
  Task<T> task;
  FaceArrays face;
  PanelArrays panel;
  char* active;      // (groups)
  double* inverse;   // (groups) one over the norm of the weights, or zero
  double* keep;      // (groups) 1 - t = lambda2 ||W_G|| / (lambda1 + lambda2 ||W_G||), what the link keeps across the unit block
  double* by_group;  // (groups, 2) shares of the penalties' gradients
  double* x;         // (k, m)
  double* p;         // (k, m)
  double* w;         // (k, m) the weights
  double* partial;   // (chunks, n, k)
  double* residual;  // (n, k) diag(c) Y - A
  double* right;     // (n, k)
  double* q;         // (n, k)

  SPARSESVM_HD void take(Arena& arena, const Batch<T>& batch) {
    task.set_sizes(batch);
    task.take(arena);
    face.take(arena, task);
    panel.take(arena, task, larger(face.max_size, 1));
    const index n = task.n_samples, k = task.k, m = task.m;
    active = arena.take<char>(task.n_groups);
    inverse = arena.take<double>(task.n_groups);
    keep = arena.take<double>(task.n_groups);
    by_group = arena.take<double>(2 * static_cast<index>(task.n_groups));
    x = arena.take<double>(k * m);
    p = arena.take<double>(k * m);
    w = arena.take<double>(k * m);
    partial = arena.take<double>(task.n_chunks * n * k);
    residual = arena.take<double>(n * k);
    right = arena.take<double>(n * k);
    q = arena.take<double>(n * k);
  }
};

}  // namespace gpu
SPARSESVM_END
