"""
Learn the penalties
===================

Gradients reach the penalties too. With ``learn_penalties=True`` the head's ``lambda1_ratio`` and ``lambda2`` are parameters, and
any optimiser lowers the loss of query samples over them, instead of a grid search.
"""

import torch
from matplotlib import pyplot
from torch.nn.functional import cross_entropy

from sparsesvm import SparseSVMHead

# %%
# Tasks in which 5 of 200 features matter; a dense classifier fits the noise of the others. Every task draws its class means anew.

N_TASKS, N_WAY, N_SHOT, N_QUERY = 16, 3, 10, 20
generator = torch.Generator().manual_seed(0)


def draw():
    means = torch.zeros(N_TASKS, N_WAY, 1, 200)
    means[..., :5] = 1.5 * torch.randn(N_TASKS, N_WAY, 1, 5, generator=generator)
    samples = means + torch.randn(N_TASKS, N_WAY, N_SHOT + N_QUERY, 200, generator=generator)
    labels = torch.arange(N_WAY)[:, None].expand(N_TASKS, -1, N_SHOT + N_QUERY)
    return samples[:, :, :N_SHOT], samples[:, :, N_SHOT:], labels[..., :N_SHOT], labels[..., N_SHOT:]


head = SparseSVMHead(lambda1_ratio=0.02, lambda2=0.1, learn_penalties=True)
optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
history = []
for _ in range(120):
    support, query, support_labels, query_labels = (part.flatten(1, 2) for part in draw())
    logits = head(query, support, support_labels, n_way=N_WAY)
    loss = cross_entropy(logits.flatten(0, 1), query_labels.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    used = head.last_solution.active.float().mean().item()
    history.append((loss.item(), head.log_lambda1_ratio.exp().item(), head.log_lambda2.exp().item(), used))

losses, ratios, ridges, shares = zip(*history, strict=True)
print(f"lambda1_ratio 0.02 -> {ratios[-1]:.2f}, lambda2 0.1 -> {ridges[-1]:.2f}")
print(f"loss, mean of ten steps: {sum(losses[:10]) / 10:.2f} -> {sum(losses[-10:]) / 10:.2f}; features used {shares[-1]:.0%}")

# %%
# The logit scale is learnt beside them.

figure, axes = pyplot.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
axes[0].plot(losses, color="C3")
axes[0].set(title="loss of the queries", xlabel="step")
axes[1].semilogy(ratios, label="lambda1_ratio")
axes[1].semilogy(ridges, label="lambda2")
axes[1].set(title="penalties", xlabel="step")
axes[1].legend()
axes[2].plot(shares)
axes[2].set(title="share of features used", xlabel="step", ylim=(0, 1))
