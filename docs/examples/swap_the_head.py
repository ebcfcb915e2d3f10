"""
Swap the head
=============

All heads have one call, so that a training loop changes its classifier in one line. Here a small encoder is trained through each
of three heads on tasks of the digits 0 to 4, and then classifies the digits 5 to 9, which it has never seen, from five images of
each.
"""

import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from sparsesvm import PrototypeHead, RidgeHead, SparseSVMHead

data = load_digits()
images = torch.from_numpy(data.data).float() / 16
labels = torch.from_numpy(data.target)
N_WAY, N_SHOT, N_QUERY = 5, 5, 10


def draw(first_digit, n_tasks, generator):
    """Support and query images of tasks with the five digits from `first_digit` on, and their labels."""
    tasks = []
    for _ in range(n_tasks):
        classes = [(labels == first_digit + k).nonzero().squeeze(1) for k in range(N_WAY)]
        tasks.append(torch.stack([rows[torch.randperm(len(rows), generator=generator)[: N_SHOT + N_QUERY]] for rows in classes]))
    index = torch.stack(tasks)  # (tasks, class, sample)
    support, query = index[..., :N_SHOT].flatten(1), index[..., N_SHOT:].flatten(1)
    return images[support], images[query], labels[support] - first_digit, labels[query] - first_digit


# %%
# The loop knows nothing of the head but its call: ``head(query, support, support_labels)``. Gradients reach the encoder through
# the solution of each task.


def train_and_test(head):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(100):
        support, query, support_labels, query_labels = draw(0, 4, generator)
        logits = head(encoder(query), encoder(support), support_labels, n_way=N_WAY)
        loss = cross_entropy(logits.flatten(0, 1), query_labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        support, query, support_labels, query_labels = draw(5, 200, generator)
        fitted = head.fit(encoder(support), support_labels, n_way=N_WAY)
        accuracy = (fitted.predict(encoder(query)) == query_labels).float().mean()
        used = (fitted.weights != 0).any(-2).float().mean()
    return 100 * accuracy.item(), 100 * used.item()


heads = {
    "sparse SVM": SparseSVMHead(lambda1_ratio=0.2),
    "SVM": SparseSVMHead(lambda1_ratio=0.0),
    "ridge": RidgeHead(),
    "prototypes": PrototypeHead(),
}
results = {name: train_and_test(head) for name, head in heads.items()}
for name, (accuracy, used) in results.items():
    print(f"{name:10}  accuracy {accuracy:.1f} %, features used by a task {used:.1f} %")

# %%
# With the sparse head a task uses a part of the features; the others use nearly all (a unit that is zero on a whole support set
# is unused under every head). One seed of a small encoder is no comparison of heads: :doc:`/benchmarks` has those.

figure, axes = pyplot.subplots(1, 2, figsize=(8, 2.4), sharey=True, layout="constrained")
for axis, column, title in zip(axes, (0, 1), ("accuracy on new digits (%)", "features used by a task (%)"), strict=True):
    bars = axis.barh(list(results), [result[column] for result in results.values()], color=["C3", "C7", "C7", "C7"])
    axis.bar_label(bars, fmt="%.0f", padding=3)
    axis.set(title=title, xlim=(0, 110))
axes[0].invert_yaxis()
