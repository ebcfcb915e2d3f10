"""Few-shot episodes: which samples make a task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from sparsesvm._files import DataError

Count = int | tuple[int, int]
"""A number, or the smallest and the largest of numbers drawn at random."""


class Draw(NamedTuple):
    """Which samples make an episode: indices into the data set, and labels 0 to n_way - 1; class after class.

    `classes` are the labels of the data set for these.
    `quarters` are the quarter turns of each class (n_way,); `seed` is for whatever else the episode draws.
    """

    support: NDArray[np.int64]
    support_labels: NDArray[np.int64]
    query: NDArray[np.int64]
    query_labels: NDArray[np.int64]
    classes: NDArray[Any]
    quarters: NDArray[np.int64]
    seed: int


class EpisodeSampler:
    """Draws episodes from labelled samples. Episode `number` is always the same, in any process and in any order.

    Args:
        labels: (n,) class of every sample, integers or names; classes may differ in size.
        n_way: classes of an episode. This, n_shot and n_query are numbers or (smallest, largest), then drawn for each episode.
        n_shot: support samples per class.
        n_query: query samples per class.
        groups: group (alphabet, superclass) of each class, in the order of the sorted labels.
        class_names: of all classes, in this order too; for messages.
        within: share of the episodes whose classes all come from one group that has enough of them.
        rotations: count every class turned by 90, 180 and 270 degrees as a class of its own. The classes of an episode from
            within one group share their orientation.
        balanced: draw a variable n_shot once per episode; otherwise for each class.
        seed: of all draws.

    Raises:
        DataError: if the samples cannot fill the largest episode asked for.
    """

    def __init__(
        self,
        labels: ArrayLike | Tensor,
        *,
        n_way: Count,
        n_shot: Count,
        n_query: Count,
        groups: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        within: float = 0.0,
        rotations: bool = False,
        balanced: bool = True,
        seed: int = 0,
    ) -> None:
        self.n_way, self.n_shot = check_count("n_way", n_way, 2), check_count("n_shot", n_shot, 1)
        self.n_query = check_count("n_query", n_query, 1)
        if not 0 <= within <= 1:
            raise ValueError(f"within must lie in [0, 1]; got {within}")
        self.within, self.rotations, self.balanced, self.seed = within, rotations, balanced, seed
        codes = np.asarray(labels)
        if codes.ndim != 1 or codes.dtype.kind not in "iuU":
            raise ValueError(f"labels must be integers of shape (n,), or names; got shape {codes.shape} of {codes.dtype}")
        self.classes, inverse = np.unique(codes, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(inverse, minlength=len(self.classes)))[:-1])
        self._check_samples(class_names or self.classes)
        self._groups = self._find_groups(groups)

    def _check_samples(self, names: Sequence[Any] | NDArray[Any]) -> None:
        turns = 4 if self.rotations else 1
        if self.n_way[1] > turns * len(self.classes):
            rotated = f", {turns * len(self.classes)} with their rotations" if self.rotations else ""
            raise DataError(
                f"an episode of n_way = {self.n_way[1]} classes needs as many; the data has {len(self.classes)}{rotated}. "
                "Lower n_way or add classes."
            )
        needed = self.n_shot[1] + self.n_query[1]
        smallest = min(range(len(self.classes)), key=lambda c: len(self._members[c]))
        if len(self._members[smallest]) < needed:
            raise DataError(
                f"n_shot + n_query = {self.n_shot[1]} + {self.n_query[1]} = {needed} samples of a class are needed; class "
                f"{names[smallest]} has {len(self._members[smallest])}. Lower them or drop the class."
            )

    def _find_groups(self, groups: Sequence[int] | None) -> list[NDArray[np.int64]]:
        if self.within == 0:
            return []
        if groups is None:
            raise DataError("within > 0 needs groups of classes, as alphabets are; these data have none")
        if len(groups) != len(self.classes):
            raise ValueError(f"groups must name the group of each of the {len(self.classes)} classes; got {len(groups)}")
        of_class = np.asarray(groups)
        found = [np.flatnonzero(of_class == group) for group in np.unique(of_class)]
        enough = [members for members in found if len(members) >= self.n_way[1]]
        if not enough:
            raise DataError(
                f"episodes within one group need a group of n_way = {self.n_way[1]} classes; the largest has "
                f"{max(len(members) for members in found)}. Lower n_way or within."
            )
        return enough

    def draw(self, number: int) -> Draw:
        """Episode `number` >= 0."""
        random = np.random.default_rng([self.seed, number])
        n_way, n_shot = _draw(self.n_way, random), _draw(self.n_shot, random)
        n_query = _draw(self.n_query, random)
        if self._groups and random.random() < self.within:
            members = self._groups[random.integers(len(self._groups))]
            chosen = random.choice(members, n_way, replace=False)
            quarters = np.full(n_way, random.integers(4) if self.rotations else 0)
        else:
            turned = random.choice(len(self.classes) * (4 if self.rotations else 1), n_way, replace=False)
            quarters, chosen = np.divmod(turned, len(self.classes))
        support: list[NDArray[np.int64]] = []
        query: list[NDArray[np.int64]] = []
        for c in chosen:
            shots = n_shot if self.balanced else _draw(self.n_shot, random)
            samples = random.choice(self._members[c], shots + n_query, replace=False)
            support.append(samples[:shots])
            query.append(samples[shots:])
        return Draw(
            np.concatenate(support),
            np.repeat(np.arange(n_way), [len(samples) for samples in support]),
            np.concatenate(query),
            np.repeat(np.arange(n_way), n_query),
            self.classes[chosen],
            quarters,
            int(random.integers(2**62)),
        )


class EpisodeNumbers(DistributedSampler[Draw]):
    """The numbers of the episodes of this process in each epoch: new ones every epoch, disjoint between processes.

    With n processes and batches of b tasks, a step sees the same tasks as one process with batches of n * b. Lightning tells it
    the epoch and leaves it in place, because it is a DistributedSampler.

    Args:
        per_epoch: episodes of an epoch, over all processes; a multiple of their number.
        fresh: draw new episodes every epoch; otherwise always the first ones.
    """

    def __init__(self, per_epoch: int, *, fresh: bool, num_replicas: int = 1, rank: int = 0) -> None:
        if per_epoch < 1 or per_epoch % num_replicas:
            least = max(1, math.ceil(per_epoch / num_replicas)) * num_replicas
            raise ValueError(
                f"episodes must be a positive multiple of the {num_replicas} processes; got {per_epoch}. Use {least}."
            )
        super().__init__(range(per_epoch), num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.fresh = fresh
        self.start = 0  # how many of this process to leave out

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        first = self.epoch * self.total_size if self.fresh else 0
        return iter(range(first + self.rank, first + self.total_size, self.num_replicas)[self.start :])


class Draws(Dataset[Draw]):
    """Episode number i of a sampler, as indices."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, number: int) -> Draw:
        return self.sampler.draw(number)


def check_count(name: str, count: Count, least: int) -> tuple[int, int]:
    """The smallest and the largest number."""
    low, high = (count, count) if isinstance(count, int) else count
    if not least <= low <= high:
        raise ValueError(f"{name} must be a number of at least {least}, or such numbers (smallest, largest); got {count}")
    return low, high


def _draw(bounds: tuple[int, int], random: np.random.Generator) -> int:
    low, high = bounds
    return low if low == high else int(random.integers(low, high + 1))
