"""Few-shot episodes: which images make a task, and batches of tasks of unequal size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from sparsesvm.meta.augment import Augment, rotate_classes
from sparsesvm.meta.datasets import ImageSet
from sparsesvm.meta.errors import DataError

Count = int | tuple[int, int]
"""A number, or the smallest and the largest of numbers drawn at random."""


class Draw(NamedTuple):
    """Which samples make an episode: indices into the data set, and labels 0 to n_way - 1; class after class.

    `quarters` are the quarter turns of each class (n_way,); `seed` is for whatever else the episode draws.
    """

    support: NDArray[np.int64]
    support_labels: NDArray[np.int64]
    query: NDArray[np.int64]
    query_labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    quarters: NDArray[np.int64]
    seed: int


class EpisodeSampler:
    """Draws episodes from labelled samples. Episode `number` is always the same, in any process and in any order.

    Args:
        labels: (n,) integer class of every sample; classes may differ in size.
        n_way: classes of an episode. This, n_shot and n_query are numbers or (smallest, largest), then drawn for each episode.
        n_shot: support samples per class.
        n_query: query samples per class.
        groups: group (alphabet, superclass) of each class, in the order of the sorted labels.
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
        within: float = 0.0,
        rotations: bool = False,
        balanced: bool = True,
        seed: int = 0,
    ) -> None:
        self.n_way, self.n_shot = _bounds("n_way", n_way, 2), _bounds("n_shot", n_shot, 1)
        self.n_query = _bounds("n_query", n_query, 1)
        if not 0 <= within <= 1:
            raise ValueError(f"within must lie in [0, 1]; got {within}")
        self.within, self.rotations, self.balanced, self.seed = within, rotations, balanced, seed
        codes = np.asarray(labels)
        if codes.ndim != 1 or codes.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers of shape (n,); got shape {codes.shape} of {codes.dtype}")
        self.classes, inverse = np.unique(codes, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(inverse, minlength=len(self.classes)))[:-1])
        self._check_samples()
        self._groups = self._find_groups(groups)

    def _check_samples(self) -> None:
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
                f"{self.classes[smallest]} has {len(self._members[smallest])}. Lower them or drop the class."
            )

    def _find_groups(self, groups: Sequence[int] | None) -> list[NDArray[np.int64]]:
        if self.within == 0:
            return []
        if groups is None:
            raise ValueError("within > 0 needs groups; got None")
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


class Episode(NamedTuple):
    """The images of one task, (n, channels, height, width), and their labels 0 to n_way - 1."""

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    n_way: int


class EpisodeBatch(NamedTuple):
    """A batch of tasks of any sizes.

    The images stand in one tensor without padding, into which the tasks point, so that padding neither costs time nor changes
    batch statistics. Shorter rows are filled up with index 0: support samples of weight 0, queries of label IGNORE.
    """

    images: Tensor  # (all images, channels, height, width)
    support: Tensor  # (tasks, most support samples), indices into images
    support_labels: Tensor
    support_weight: Tensor  # 1, or 0 for padding
    query: Tensor  # (tasks, most query samples), indices into images
    query_labels: Tensor  # IGNORE for padding
    n_way: Tensor  # (tasks,)


IGNORE = -100
"""Label of padding among the query samples: what torch's cross entropy ignores."""


def collate(episodes: Sequence[Episode]) -> EpisodeBatch:
    """Put tasks of any sizes into one batch."""
    sizes = {tuple(part.shape[1:]) for e in episodes for part in (e.support_images, e.query_images)}
    if len(sizes) != 1:
        raise DataError(
            f"the images of a batch must have one size; got {sorted(sizes)}. Resize them, e.g. with the reader's size."
        )
    images = torch.cat([part for e in episodes for part in (e.support_images, e.query_images)])
    lengths = [n for e in episodes for n in (len(e.support_labels), len(e.query_labels))]
    rows = torch.arange(len(images)).split(lengths)
    return _batch(
        images,
        rows[::2],
        [e.support_labels for e in episodes],
        rows[1::2],
        [e.query_labels for e in episodes],
        [e.n_way for e in episodes],
    )


def _batch(
    images: Tensor,
    support: Sequence[Tensor],
    support_labels: Sequence[Tensor],
    query: Sequence[Tensor],
    query_labels: Sequence[Tensor],
    n_way: Sequence[int],
) -> EpisodeBatch:
    def padded(rows: Sequence[Tensor], value: int = 0) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)

    weight = padded([torch.ones_like(row) for row in support]).float()
    return EpisodeBatch(
        images,
        padded(support),
        padded(support_labels),
        weight,
        padded(query),
        padded(query_labels, IGNORE),
        torch.tensor(n_way),
    )


class EpisodeDataset(Dataset[Episode]):
    """Episode number i of a data set that yields (image, label); augmentation is part of the episode and of its seed.

    Args:
        dataset: an `ImageSet`, or any data set that yields (image, label); its labels must be those given to the sampler.
        sampler: decides which samples make an episode.
        augment: applied to all images of the episode.
    """

    def __init__(self, dataset: Dataset[tuple[Tensor, int]], sampler: EpisodeSampler, augment: Augment | None = None) -> None:
        self.dataset, self.sampler, self.augment = dataset, sampler, augment

    def __getitem__(self, number: int) -> Episode:
        draw = self.sampler.draw(number)
        images = self._load(np.concatenate([draw.support, draw.query]))
        labels = torch.from_numpy(np.concatenate([draw.support_labels, draw.query_labels]))
        if draw.quarters.any():
            if images.shape[-1] != images.shape[-2]:
                raise DataError(f"rotated classes need square images; got {images.shape[-2]} x {images.shape[-1]}")
            images = rotate_classes(images, torch.from_numpy(draw.quarters)[labels])
        if self.augment is not None:
            images = self.augment(images, torch.Generator().manual_seed(draw.seed))
        n = len(draw.support)
        return Episode(images[:n], labels[:n], images[n:], labels[n:], len(draw.classes))

    def shared_batch(self, draws: Sequence[Draw]) -> EpisodeBatch:
        """A batch without augmentation that holds every image once, however many tasks use it: for evaluation."""
        used, rows = np.unique(np.concatenate([part for d in draws for part in (d.support, d.query)]), return_inverse=True)
        lengths = [n for d in draws for n in (len(d.support), len(d.query))]
        parts = torch.from_numpy(rows).split(lengths)
        return _batch(
            self._load(used),
            parts[::2],
            [torch.from_numpy(d.support_labels) for d in draws],
            parts[1::2],
            [torch.from_numpy(d.query_labels) for d in draws],
            [len(d.classes) for d in draws],
        )

    def _load(self, indices: NDArray[np.int64]) -> Tensor:
        if isinstance(self.dataset, ImageSet):
            return self.dataset.load(indices)
        return torch.stack([torch.as_tensor(self.dataset[int(i)][0]) for i in indices])


class EpisodeNumbers(DistributedSampler[Episode]):
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


class EpisodeLoader(DataLoader[Episode]):
    """Loads training batches, and goes on within an epoch where an interrupted run stopped, which Lightning asks of loaders that
    have a state. Its sampler must be `EpisodeNumbers`.

    Attributes:
        progress: tells how many batches of the epoch have been trained on, which batches loaded in advance have not.
    """

    sampler: EpisodeNumbers
    batch_size: int
    progress: Callable[[], int]
    _resume_at = 0

    def __iter__(self) -> Iterator[EpisodeBatch]:  # type: ignore[override]
        # A generator: workers begin with the first batch, and not before the sampler is told its epoch.
        self.sampler.start, self._resume_at = self._resume_at * self.batch_size, 0
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Batches of this epoch that are done; none when the epoch is complete."""
        return {"done": self.progress() % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out the batches that were done, once."""
        self._resume_at = state["done"]


class Draws(Dataset[Draw]):
    """Episode number i of a sampler, as indices."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, number: int) -> Draw:
        return self.sampler.draw(number)


def _bounds(name: str, count: Count, least: int) -> tuple[int, int]:
    low, high = (count, count) if isinstance(count, int) else count
    if not least <= low <= high:
        raise ValueError(f"{name} must be a number of at least {least}, or such numbers (smallest, largest); got {count}")
    return low, high


def _draw(bounds: tuple[int, int], random: np.random.Generator) -> int:
    low, high = bounds
    return low if low == high else int(random.integers(low, high + 1))
