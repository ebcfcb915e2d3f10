"""
Probe frozen embeddings
=======================

How much of what matters is held by how few features? A sparse linear probe answers with an accuracy for each number of features,
and names the features. Validation samples choose the penalty, test samples are looked at once.
"""

import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits

import sparsesvm

data = load_digits()
images = torch.from_numpy(data.data).float() / 16
labels = torch.from_numpy(data.target)

# %%
# The embedding stands for any frozen encoder: here the 300 units of a random layer.

torch.manual_seed(0)
embedding = torch.relu(torch.nn.functional.linear(images - 0.5, torch.randn(300, 64)))
order = torch.randperm(len(labels))
train, validation, test = order[:400], order[400:800], order[800:]
mean, deviation = embedding[train].mean(0), embedding[train].std(0)
features = (embedding - mean) / torch.where(deviation > 0, deviation, 1.0)

# %%
# The path gives the probe at every penalty.

path = sparsesvm.regularization_path(features[train], labels[train], lambda2=1.0, n_lambdas=10, min_ratio=0.02)


def accuracy(rows):
    scores = sparsesvm.decision_function(features[rows].expand(10, -1, -1), path.solution.weights)
    return (scores.argmax(-1) == labels[rows]).double().mean(-1)


used = path.solution.active.sum(-1)
chosen = int(accuracy(validation).argmax())
enough = int((accuracy(validation) >= accuracy(validation).max() - 0.02).double().argmax())
for name, number in (("best on validation", chosen), ("sparsest within two points", enough)):
    print(f"{name}: {used[number]} of 300 features, test accuracy {100 * accuracy(test)[number]:.1f} %")

# %%
# What the probe uses, by weight norm.

norms = path.solution.weights[enough].norm(dim=0)
print("the ten features with the largest weights:", norms.topk(10).indices.tolist())

figure, axis = pyplot.subplots(figsize=(6, 3), layout="constrained")
axis.plot(used, 100 * accuracy(validation), "o-", label="validation")
axis.plot(used, 100 * accuracy(test), "o-", label="test")
axis.axvline(used[enough], color="C7", linestyle="--", label="sparsest within two points")
axis.set(xlabel="features used of 300", ylabel="accuracy (%)", ylim=(0, 100))
axis.legend()
axis.grid(alpha=0.3)
