"""
Which pixels tell digits apart
==============================

The group penalty drops features for all classes of a task at once. On raw pixels one can look at what is left: four tasks, in
each of which three digits are to be told apart, are solved in one batch along a path of falling penalties.
"""

import sys

import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits

import sparsesvm

data = load_digits()
pixels = torch.from_numpy(data.data) / 16
digits = torch.from_numpy(data.target)
tasks = torch.tensor([[3, 5, 8], [1, 4, 7], [0, 6, 9], [2, 7, 8]])
N_TRAIN = 100  # of each digit; the others are for testing

rows = torch.stack([(digits == digit).nonzero().squeeze(1)[:170] for digit in range(10)])
labels = torch.arange(3)[:, None].expand(3, 170)
support = pixels[rows[tasks, :N_TRAIN]].flatten(1, 2)  # (4 tasks, 300 samples, 64 pixels)
query = pixels[rows[tasks, N_TRAIN:]].flatten(1, 2)
support_labels, query_labels = labels[:, :N_TRAIN].flatten().expand(4, -1), labels[:, N_TRAIN:].flatten()
mean = support.mean(1, keepdim=True)

# %%
# One call solves all problems, each started from the one with the penalty before. ``lambda1`` begins where all weights are zero;
# ``active`` says which pixels a solution uses.

path = sparsesvm.regularization_path(support - mean, support_labels, lambda2=1.0, n_lambdas=30, min_ratio=0.02)
scores = sparsesvm.decision_function((query - mean).expand(30, -1, -1, -1), path.solution.weights)
accuracy = 100 * (scores.argmax(-1) == query_labels).double().mean(-1)  # (30 penalties, 4 tasks)
used = path.solution.active.sum(-1)
for number in (0, 8, 12, 16, 22, 29):
    ratio = path.lambda1[number, 0] / path.lambda1[0, 0]
    print(f"lambda1_ratio {ratio:.2f}: pixels {used[number].tolist()}, mean accuracy {accuracy[number].mean():.1f} %")

# %%
# Every solution comes with a certificate: its objective is within ``gap`` of the minimum.

print(f"largest relative duality gap: {(path.solution.gap / path.solution.objective).max():.0e}")

# %%
# The pixels of each task, at the largest penalty that uses at least twelve, over the mean image; and what they cost.

figure, axes = pyplot.subplots(1, 5, figsize=(10, 2.4), width_ratios=(1, 1, 1, 1, 1.7), layout="constrained")
for task, axis in enumerate(axes[:4]):
    chosen = int((used[:, task] >= 12).double().argmax())
    axis.imshow(mean[task].reshape(8, 8), cmap="Greys", vmax=1.4)
    row, column = path.solution.active[chosen, task].reshape(8, 8).nonzero().T
    axis.scatter(column, row, marker="s", s=90, facecolors="none", edgecolors="C3", linewidths=1.5)
    names = ", ".join(str(digit) for digit in tasks[task].tolist())
    axis.set(xticks=[], yticks=[], title=f"{int(used[chosen, task])} pixels: {accuracy[chosen, task]:.0f} %", xlabel=names)
    axes[4].plot(used[:, task], accuracy[:, task], ".-", label=names)
axes[4].set(xlabel="pixels used of 64", ylabel="accuracy (%)", ylim=(30, 101))
axes[4].legend(fontsize="small")
axes[4].grid(alpha=0.3)
if len(sys.argv) > 1:  # where to save the picture
    figure.savefig(sys.argv[1], dpi=150)
