"""Bi-level training of an encoder on a stream of tasks, validation on new tasks, and scores against the true factors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sparsesvm import _checks, metrics
from sparsesvm.bilevel.encoders import Encoder
from sparsesvm.bilevel.learners import Learner
from sparsesvm.bilevel.tasks import TaskLaw, noisy_targets
from sparsesvm.factors.latents import LatentLaw

__all__ = [
    "Scores",
    "TaskBatch",
    "TaskSource",
    "Unmixing",
    "encode",
    "independent_components",
    "score",
    "train",
    "validation_error",
]

_CHUNK = 500


class TaskBatch(NamedTuple):
    """Tasks: observations (n_sets, n_samples, ...); targets (n_tasks, n_samples, n_outputs), or labels (n_tasks, n_samples).
    n_tasks / n_sets consecutive tasks share each set of observations."""

    observations: Tensor
    targets: Tensor

    def features(self, encoder: Encoder) -> Tensor:
        """Features (n_tasks, n_samples, n_features) of every task; each set of observations is encoded once."""
        encoded: Tensor = encoder(self.observations)
        return encoded.repeat_interleave(len(self.targets) // len(encoded), 0)


@dataclass(frozen=True)
class TaskSource:
    """Draws tasks from factors to observations and targets.

    Attributes:
        latents: law of the factors.
        mixing: observations (n, ...) of factors (n, n_factors).
        tasks: law of the coefficients.
        n_tasks, n_samples: of a batch.
        noise: ratio of the norms of noise and signal in each task.
        n_way: makes classification tasks of this many classes, the largest of n_way noisy outputs; None is regression.
        sharing: so many tasks have the same observations, which are the costly part where observations are pictures; n_tasks must
            be a multiple of it.
    """

    latents: LatentLaw
    mixing: Callable[[Tensor], Tensor]
    tasks: TaskLaw
    n_tasks: int = 8
    n_samples: int = 50
    noise: float = 0.1
    n_way: int | None = None
    sharing: int = 1

    def __post_init__(self) -> None:
        _checks.check_integer("sharing", self.sharing, minimum=1)

    def draw(self, generator: torch.Generator, n_tasks: int | None = None, n_samples: int | None = None) -> TaskBatch:
        """A batch of tasks, of the size given or of the source's own.

        Raises:
            ValueError: where the number of tasks is no multiple of `sharing`.
        """
        n_tasks, n_samples = n_tasks or self.n_tasks, n_samples or self.n_samples
        n_sets, left = divmod(n_tasks, self.sharing)
        if left:
            raise ValueError(f"n_tasks must be a multiple of sharing = {self.sharing}; got {n_tasks}")
        factors = self.latents.draw(n_sets * n_samples, generator)
        weights = self.tasks.draw(n_tasks, generator, self.n_way or 1)
        of_tasks = factors.unflatten(0, (n_sets, n_samples)).repeat_interleave(self.sharing, 0)
        targets = noisy_targets(of_tasks, weights, self.noise, generator)
        if self.n_way is not None:
            targets = targets.argmax(-1)
        with torch.no_grad():
            observations = self.mixing(factors)
        return TaskBatch(observations.unflatten(0, (n_sets, n_samples)), targets)


def train(
    encoder: Encoder,
    learner: Learner,
    source: TaskSource,
    *,
    steps: int = 3000,
    learning_rate: float = 1e-3,
    split: bool = False,
    seed: int = 0,
    after_step: Callable[[float], object] | None = None,
) -> None:
    """Minimise the outer loss over the encoder (and the learner's own parameters), in place; ends in evaluation mode.

    AdamW without weight decay, the learning rate falling to zero along a cosine. The gradient passes through the inner solution.

    Args:
        steps: batches of tasks.
        split: fit predictors on the first half of each task's samples and score them on the second; else both on all samples, as
            in multi-task learning.
        seed: of the tasks drawn.
        after_step: called with each step's loss, e.g. to move a progress bar.

    Example:
        >>> from sparsesvm.bilevel.encoders import mlp_encoder
        >>> from sparsesvm.bilevel.learners import InnerLasso
        >>> from sparsesvm.bilevel.tasks import BernoulliSupport
        >>> from sparsesvm.bilevel.training import TaskSource, train
        >>> from sparsesvm.factors import BoxGaussian, RandomMLP
        >>> source = TaskSource(BoxGaussian(4), RandomMLP(4, 10), BernoulliSupport(4))
        >>> train(mlp_encoder(10, 4), InnerLasso(0.1), source, steps=2)
    """
    steps = _checks.check_integer("steps", steps, minimum=1)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *learner.parameters()], lr=learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    encoder.train()
    for _ in range(steps):
        batch = source.draw(generator)
        features = batch.features(encoder)
        support = query = features, batch.targets
        if split:
            half = features.shape[1] // 2
            support, query = (features[:, :half], batch.targets[:, :half]), (features[:, half:], batch.targets[:, half:])
        loss = learner.outer_loss(*support, *query)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if after_step is not None:
            after_step(loss.item())
    encoder.eval()


def validation_error(
    encoder: Encoder,
    learner: Learner,
    source: TaskSource,
    *,
    seed: int,
    n_tasks: int = 400,
    n_support: int = 6,
    n_query: int = 50,
) -> float:
    """Error on new samples of new tasks after fitting on few samples, the loss by which models are chosen; lower is better.

    With as many samples as in training every linearly equivalent representation predicts alike, so the training loss cannot
    tell them apart; with few it can. Every task has observations of its own. The predictor is the learner's kind, with the best
    penalty of a grid (`Learner.variants`), the same for every encoder. No true factor is looked at.

    Example:
        >>> from sparsesvm.bilevel.encoders import mlp_encoder
        >>> from sparsesvm.bilevel.learners import InnerRidge
        >>> from sparsesvm.bilevel.tasks import BernoulliSupport
        >>> from sparsesvm.bilevel.training import TaskSource, validation_error
        >>> from sparsesvm.factors import BoxGaussian, RandomMLP
        >>> source = TaskSource(BoxGaussian(4), RandomMLP(4, 10), BernoulliSupport(4))
        >>> validation_error(mlp_encoder(10, 4).eval(), InnerRidge(), source, seed=0, n_tasks=8) > 0
        True
    """
    generator = torch.Generator().manual_seed(seed)
    batch = replace(source, sharing=1).draw(generator, n_tasks, n_support + n_query)
    with torch.no_grad():
        features = batch.features(encoder)
        parts = features[:, :n_support], batch.targets[:, :n_support], features[:, n_support:], batch.targets[:, n_support:]
        return min(float(variant.error(*parts).mean()) for variant in learner.variants())


def encode(encoder: Encoder, mixing: Callable[[Tensor], Tensor], factors: Tensor) -> Tensor:
    """Codes (n, n_features) of the observations of factors (n, n_factors), by the running averages of the normalisation.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel.encoders import mlp_encoder
        >>> from sparsesvm.bilevel.training import encode
        >>> from sparsesvm.factors import RandomMLP
        >>> encode(mlp_encoder(10, 4), RandomMLP(4, 10), torch.randn(100, 4)).shape
        torch.Size([100, 4])
    """
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder(mixing(part).unsqueeze(0)).squeeze(0) for part in factors.split(_CHUNK)])


class Unmixing(NamedTuple):
    """Result of `independent_components`: codes to components, and whether the algorithm converged."""

    unmix: Callable[[Tensor], Tensor]
    converged: bool


def independent_components(codes: Tensor, seed: int = 0) -> Unmixing:
    """FastICA (logcosh) fitted to codes (n, n_features). Where it does not converge, as on Gaussian codes, the last iterate.

    Example:
        >>> import torch
        >>> from sparsesvm import metrics
        >>> from sparsesvm.bilevel.training import independent_components
        >>> factors = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> mixed = factors @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> found = independent_components(mixed)
        >>> metrics.mcc(factors, found.unmix(mixed)) > 0.98
        True
    """
    model = FastICA(whiten="unit-variance", fun="logcosh", max_iter=500, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is returned
        model.fit(codes.double().numpy())
    return Unmixing(
        lambda other: torch.from_numpy(np.asarray(model.transform(other.double().numpy()))), bool(model.n_iter_ < model.max_iter)
    )


class Scores(NamedTuple):
    """Agreement of codes with true factors; see `sparsesvm.metrics`."""

    mcc: float
    r: float
    disentanglement: float
    completeness: float
    informativeness: float
    disentanglement_unweighted: float
    completeness_unweighted: float


def score(factors: Tensor, codes: Tensor) -> Scores:
    """All metrics of one representation.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel.training import score
        >>> factors = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> round(score(factors, factors.flip(1)).mcc, 6)
        1.0
    """
    plain = metrics.dci(factors, codes, weighted=False)
    return Scores(
        metrics.mcc(factors, codes),
        metrics.linear_r(factors, codes),
        *metrics.dci(factors, codes),
        plain.disentanglement,
        plain.completeness,
    )
