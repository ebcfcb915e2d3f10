"""
Tasks of different size in one batch
====================================

Real tasks differ in their samples. Padding and ``sample_weight`` put them into one batch, solved in one call on all threads: a
sample of weight zero is not there, whatever it holds.
"""

import torch
from matplotlib import pyplot

import sparsesvm

generator = torch.Generator().manual_seed(0)
sizes = [(4, 4, 4), (10, 3, 1), (20, 20, 20)]  # samples of each of three classes
tasks = []
for size in sizes:
    labels = torch.cat([torch.full((count,), k) for k, count in enumerate(size)])
    means = torch.randn(3, 50, generator=generator)
    tasks.append((means[labels] + torch.randn(len(labels), 50, generator=generator), labels))

# %%
# Pad to the largest task. The padding may hold anything: NaN, and a label of no class.

longest = max(len(labels) for _, labels in tasks)
features = torch.full((3, longest, 50), torch.nan)
labels = torch.full((3, longest), -100)
weight = torch.zeros(3, longest)
for number, (samples, classes) in enumerate(tasks):
    features[number, : len(classes)], labels[number, : len(classes)], weight[number, : len(classes)] = samples, classes, 1.0

batch = sparsesvm.solve(features, labels, lambda1_ratio=0.2, lambda2=0.1, n_way=3, sample_weight=weight)
print("active features of each task:", batch.active.sum(-1).tolist())

# %%
# Each task has the solution that it has alone.

for number, (samples, classes) in enumerate(tasks):
    alone = sparsesvm.solve(samples, classes, lambda1_ratio=0.2, lambda2=0.1, n_way=3)
    difference = (batch.weights[number] - alone.weights).abs().max()
    print(f"task of {len(classes)} samples: largest difference of the weights {difference:.0e}")

# %%
# Tasks of fewer classes say so: absent classes have no weights and no influence.

ways = torch.tensor([3, 2, 3])
fewer = torch.where(labels < ways[:, None], labels, 0)
unequal = sparsesvm.solve(features, fewer, lambda1_ratio=0.2, lambda2=0.1, n_way=ways, sample_weight=weight)
print("classes with weights:", (unequal.weights != 0).any(-1).sum(-1).tolist())

# %%
# Weights other than zero and one work too: here every class counts alike, however many samples it has. A head takes the same
# argument, ``head(query, support, support_labels, sample_weight=weight)``, and weights have gradients.

counts = torch.stack([(labels == k).sum(-1) for k in range(3)], -1)
present = weight > 0
balanced = torch.where(present, 1 / counts.gather(-1, labels.where(present, 0)), 0.0) * weight.sum(-1, keepdim=True) / 3
equal = sparsesvm.solve(features, labels, lambda1_ratio=0.2, lambda2=0.1, n_way=3, sample_weight=balanced)
print("active features with balanced classes:", equal.active.sum(-1).tolist())

# %%
# Each task uses its own features, with either weighting.

figure, axes = pyplot.subplots(2, 1, figsize=(7, 2.8), layout="constrained", sharex=True)
for axis, solution, title in zip(axes, (batch, equal), ("every sample counts alike", "every class counts alike"), strict=True):
    axis.imshow(solution.weights.norm(dim=-2), cmap="Reds", aspect="auto")
    axis.set(yticks=range(3), yticklabels=[f"{sum(size)} samples" for size in sizes], title=title)
axes[1].set(xlabel="feature")
