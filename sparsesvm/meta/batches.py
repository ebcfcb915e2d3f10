"""The images of episodes, and batches of tasks of unequal size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsesvm._files import DataError
from sparsesvm.meta.augment import Augment, rotate_classes
from sparsesvm.meta.episodes import Draw, EpisodeNumbers, EpisodeSampler
from sparsesvm.meta.images import ImageSet, to_images


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


def collate(episodes: Sequence[Episode], support_sets: int = 1) -> EpisodeBatch:
    """Put tasks of any sizes into one batch.

    With several `support_sets`, each episode makes so many tasks of the same images: in the first its own one, in the next one
    the first queries of every class are the support set, and so on. A class needs `support_sets` times its shots.

    Example:
        >>> import torch
        >>> from sparsesvm.meta import Episode, collate
        >>> images = torch.rand(6, 1, 8, 8)
        >>> small = Episode(images[:2], torch.tensor([0, 1]), images[2:4], torch.tensor([0, 1]), n_way=2)
        >>> large = Episode(images[:3], torch.tensor([0, 1, 2]), images[3:], torch.tensor([0, 1, 2]), n_way=3)
        >>> collate([small, large]).support_weight
        tensor([[1., 1., 0.],
                [1., 1., 1.]])
    """
    sizes = {tuple(part.shape[1:]) for e in episodes for part in (e.support_images, e.query_images)}
    if len(sizes) != 1:
        raise DataError(
            f"the images of a batch must have one size; got {sorted(sizes)}. Resize them, e.g. with the reader's size."
        )
    images = torch.cat([part for e in episodes for part in (e.support_images, e.query_images)])
    lengths = [n for e in episodes for n in (len(e.support_labels), len(e.query_labels))]
    rows = torch.arange(len(images)).split(lengths)
    tasks = [
        task
        for e, support, query in zip(episodes, rows[::2], rows[1::2], strict=True)
        for task in _exchange(support, e.support_labels, query, e.query_labels, support_sets)
    ]
    support, support_labels, query, query_labels = zip(*tasks, strict=True)
    return _batch(images, support, support_labels, query, query_labels, [e.n_way for e in episodes for _ in range(support_sets)])


def _exchange(
    support: Tensor, support_labels: Tensor, query: Tensor, query_labels: Tensor, support_sets: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The task as given, then with the next samples of every class as its support set."""
    yield support, support_labels, query, query_labels
    if support_sets == 1:
        return
    rows, labels = torch.cat([support, query]), torch.cat([support_labels, query_labels])
    place = (labels.unsqueeze(1) == labels).tril(-1).sum(1)  # of a sample within its class
    number = place // support_labels.bincount()[labels]
    for chosen in (number == n for n in range(1, support_sets)):
        yield rows[chosen], labels[chosen], rows[~chosen], labels[~chosen]


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
        dataset: an `ImageSet`, or any data set that yields (image, label); its labels must be those given to the sampler. Its
            images may be pictures of Pillow, uint8, or floating-point from 0 to 1 or standardised, which are kept as they are.
        sampler: decides which samples make an episode.
        augment: applied to all images of the episode, each by its own amounts.
        class_augment: applied to all images of a class alike, which makes a new class.
        class_augment_share: in this share of the episodes.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Tensor, int]],
        sampler: EpisodeSampler,
        augment: Augment | None = None,
        class_augment: Augment | None = None,
        class_augment_share: float = 1.0,
    ) -> None:
        if not 0 <= class_augment_share <= 1:
            raise ValueError(f"class_augment_share must lie in [0, 1]; got {class_augment_share}")
        self.dataset, self.sampler, self.augment = dataset, sampler, augment
        self.class_augment, self.class_augment_share = class_augment, class_augment_share

    def __getitem__(self, number: int) -> Episode:
        draw = self.sampler.draw(number)
        images = self._load(np.concatenate([draw.support, draw.query]))
        labels = torch.from_numpy(np.concatenate([draw.support_labels, draw.query_labels]))
        if draw.quarters.any():
            if images.shape[-1] != images.shape[-2]:
                raise DataError(f"rotated classes need square images; got {images.shape[-2]} x {images.shape[-1]}")
            images = rotate_classes(images, torch.from_numpy(draw.quarters)[labels])
        generator = torch.Generator().manual_seed(draw.seed)
        of_classes = self.class_augment
        if of_classes is not None and float(torch.rand((), generator=generator)) >= self.class_augment_share:
            of_classes = None
        if self.augment is not None or of_classes is not None:
            images = (self.augment or Augment())(images, generator, of_classes=of_classes, labels=labels)
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
        return to_images([self.dataset[int(i)][0] for i in indices], standardised=True)


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
