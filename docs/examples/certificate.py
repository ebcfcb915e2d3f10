"""
Certify anybody's solution
==========================

A duality gap bounds how far an objective is from its minimum, without knowing the minimum. ``duality_gap`` computes it for
weights from anywhere: here for scikit-learn's Crammer-Singer SVM, which is this problem with ``lambda1 = 0`` and
``lambda2 = 1 / C``.
"""

import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

import sparsesvm

data = load_digits()
features = torch.from_numpy(data.data[:300]) / 16
labels = torch.from_numpy(data.target[:300])
LAMBDA2 = 1.0


def gap_of(weights):
    gap = sparsesvm.duality_gap(features, labels, weights, lambda1=0.0, lambda2=LAMBDA2)
    return gap.item() / len(labels)


tolerances = [1e-1, 1e-2, 1e-3, 1e-4]
gaps = []
for tol in tolerances:
    other = LinearSVC(multi_class="crammer_singer", C=1 / LAMBDA2, fit_intercept=False, tol=tol, max_iter=100_000)
    gaps.append(gap_of(torch.from_numpy(other.fit(features.numpy(), labels.numpy()).coef_)))
    print(f"LinearSVC, tol {tol:.0e}: gap of {gaps[-1]:.1e} of the objective at W = 0")

# %%
# ``solve`` measures its ``tol`` by the same gap, so that it means what it says, also with the group penalty.

for tol in (1e-2, 1e-4, 1e-6):
    solution = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=LAMBDA2, tol=tol)
    print(f"sparsesvm, tol {tol:.0e}: gap of {solution.gap.item() / len(labels):.1e} in {solution.n_iter} iterations")

# %%

figure, axis = pyplot.subplots(figsize=(5, 3), layout="constrained")
axis.loglog(tolerances, gaps, "o-", label="LinearSVC")
axis.loglog(tolerances, tolerances, "--", color="C7", label="gap = tol")
axis.set(xlabel="tol asked for", ylabel="certified relative gap")
axis.legend()
