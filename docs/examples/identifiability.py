"""
Identifiability in a minute
===========================

Observations are an unknown function of six factors, and many tasks each depend on a few of them. An encoder trained through a
sparse predictor per task recovers the factors, one by one; through a dense predictor it recovers them up to a mixture. Neither
ever sees a factor. :doc:`/identifiability` says when and why.
"""

import time

import torch
from matplotlib import pyplot

from sparsesvm import metrics
from sparsesvm.bilevel.encoders import mlp_encoder
from sparsesvm.bilevel.learners import InnerLasso, InnerRidge
from sparsesvm.bilevel.tasks import BernoulliSupport
from sparsesvm.bilevel.training import TaskSource, encode, train
from sparsesvm.factors import BoxGaussian, RandomMLP, UniformBox

N_FACTORS = 6
mixing = RandomMLP(n_factors=N_FACTORS, n_outputs=20, seed=0)
source = TaskSource(latents=BoxGaussian(N_FACTORS), mixing=mixing, tasks=BernoulliSupport(N_FACTORS), n_tasks=32, n_samples=50)
factors = UniformBox(N_FACTORS).draw(2000, torch.Generator().manual_seed(1))

# %%
# The two runs differ in the predictor that is fitted to each task, and in nothing else.

tables = {}
for name, learner in {"inner Lasso": InnerLasso(0.1), "inner ridge": InnerRidge()}.items():
    begin = time.perf_counter()
    torch.manual_seed(0)
    encoder = mlp_encoder(n_inputs=20, n_features=N_FACTORS)
    train(encoder, learner, source, steps=700, learning_rate=2e-3)
    codes = encode(encoder, mixing, factors)
    tables[name] = metrics.correlations(factors, codes)[:, metrics.matching(factors, codes)]
    print(
        f"{name}: MCC {metrics.mcc(factors, codes):.3f}, linear R {metrics.linear_r(factors, codes):.3f}, "
        f"{time.perf_counter() - begin:.0f} s"
    )

# %%
# Correlations of factors and codes, in the order that matches them best. Linear R says that both hold all factors linearly; MCC,
# that only the sparse predictors set them apart.

figure, axes = pyplot.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
for axis, (name, table) in zip(axes, tables.items(), strict=True):
    image = axis.imshow(table, vmin=0, vmax=1, cmap="Greys")
    axis.set(title=name, xlabel="code", ylabel="factor", xticks=range(N_FACTORS), yticks=range(N_FACTORS))
figure.colorbar(image, ax=axes, label="absolute correlation")
