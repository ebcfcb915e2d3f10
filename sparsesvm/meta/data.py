"""Episodes for training and evaluation, as Lightning asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sparsesvm import _checks
from sparsesvm._files import ARRAYS, DataError, class_codes, load_arrays
from sparsesvm.meta.augment import Augment
from sparsesvm.meta.batches import Episode, EpisodeBatch, EpisodeDataset, EpisodeLoader, collate
from sparsesvm.meta.episodes import Count, Draws, EpisodeNumbers, EpisodeSampler, check_count
from sparsesvm.meta.images import ImageSet, Reader, find_files, find_folders, to_channels_first


@dataclass(frozen=True)
class Setting:
    """What test episodes look like: "5-way 1-shot" and so on.

    Args:
        n_way: classes.
        n_shot: support samples per class.
        n_query: query samples per class.
        within: all classes of an episode come from one group (alphabet).
    """

    n_way: int = 5
    n_shot: int = 1
    n_query: int = 15
    within: bool = False

    def __post_init__(self) -> None:
        for name, least in (("n_way", 2), ("n_shot", 1), ("n_query", 1)):
            _checks.check_integer(name, getattr(self, name), minimum=least)

    @property
    def name(self) -> str:
        """In the words of the field."""
        return f"{self.n_way}-way {self.n_shot}-shot" + (" within" if self.within else "")

    def sampler(self, images: ImageSet, seed: int) -> EpisodeSampler:
        """Draws such episodes."""
        within = float(self.within)
        counts: dict[str, Any] = {"n_way": self.n_way, "n_shot": self.n_shot, "n_query": self.n_query}
        classes: dict[str, Any] = {"groups": images.class_groups, "class_names": images.class_names}
        return EpisodeSampler(images.labels, **counts, **classes, within=within, seed=seed)


class EpisodeData(lightning.LightningDataModule):
    """Training, validation and test episodes out of the splits of one reader.

    Args:
        reader: where the images come from.
        n_way, n_shot, n_query: of training episodes: numbers, or [smallest, largest] to draw from for each episode.
        support_sets: training tasks made of the images of one episode: in each, other images of every class are the support set,
            the rest the queries. The images are encoded once, so that further tasks cost the head's time alone. They need
            n_query >= (support_sets - 1) * n_shot.
        within: share of training episodes with classes from one group (alphabet).
        rotations: training classes turned by quarter turns are further classes.
        augment: random changes of training images.
        class_augment: changes common to the images of a class, which make new classes, in a share of the training episodes.
        class_augment_share: this share.
        tasks_per_step: training episodes per step in each process.
        episodes_per_epoch: training episodes of an epoch, over all processes.
        val, test: the settings to evaluate in.
        val_episodes, test_episodes: tasks in each of them.
        tasks_per_batch: tasks evaluated at a time; images that they share are encoded once.
        num_workers: processes that load images; 0 suits images in memory.
        predict_support, predict_query: for `predict`: a folder with a folder of images per class, or an .npz or .pt file with
            `images` and `labels`; and a folder of images, or such a file with `images`.
        seed: of all episodes.
    """

    def __init__(
        self,
        reader: Reader,
        n_way: Count = 5,
        n_shot: Count = 1,
        n_query: Count = 15,
        support_sets: int = 1,
        within: float = 0.0,
        rotations: bool = False,
        augment: Augment | None = None,
        class_augment: Augment | None = None,
        class_augment_share: float = 1.0,
        tasks_per_step: int = 1,
        episodes_per_epoch: int = 100,
        val: list[Setting] | None = None,
        test: list[Setting] | None = None,
        val_episodes: int = 100,
        test_episodes: int = 600,
        tasks_per_batch: int = 20,
        num_workers: int = 0,
        predict_support: str | None = None,
        predict_query: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.reader, self.num_workers, self.seed = reader, num_workers, seed
        self.augment, self.class_augment, self.class_augment_share = augment, class_augment, class_augment_share
        self.train: dict[str, Any] = {
            "n_way": n_way,
            "n_shot": n_shot,
            "n_query": n_query,
            "within": within,
            "rotations": rotations,
        }
        for name, count, least in (("n_way", n_way, 2), ("n_shot", n_shot, 1), ("n_query", n_query, 1)):
            check_count(name, count, least)
        for name, share in (("within", within), ("class_augment_share", class_augment_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {share}")
        self.support_sets = _checks.check_integer("support_sets", support_sets, minimum=1)
        self.tasks_per_step = _checks.check_integer("tasks_per_step", tasks_per_step, minimum=1)
        self.episodes_per_epoch = _checks.check_integer("episodes_per_epoch", episodes_per_epoch, minimum=1)
        self.tasks_per_batch = _checks.check_integer("tasks_per_batch", tasks_per_batch, minimum=1)
        _checks.check_integer("num_workers", num_workers, minimum=0)
        self.settings = {"val": [Setting()] if val is None else val, "test": [Setting()] if test is None else test}
        self.episodes = {"val": val_episodes, "test": test_episodes}
        for stage, settings in self.settings.items():
            _checks.check_integer(f"{stage}_episodes", self.episodes[stage], minimum=1)
            if not settings:
                raise ValueError(f"{stage} must hold at least one setting; got none")
        self.names = {stage: [setting.name for setting in settings] for stage, settings in self.settings.items()}
        self.predict_support, self.predict_query = predict_support, predict_query
        self._images: dict[str, ImageSet] = {}

    def images(self, split: str) -> ImageSet:
        """The images of a split, read once."""
        if split not in self._images:
            self._images[split] = self.reader.read(split)
        return self._images[split]

    def setup(self, stage: str) -> None:
        """Read what the stage needs and refuse episodes that cannot be drawn, before any training."""
        if stage == "fit":
            self._train_data = self._train_episodes()
        if stage in ("fit", "validate"):
            self._loaders("val")
        if stage == "test":
            self._loaders("test")

    def _train_episodes(self) -> EpisodeDataset:
        images = self.images("train")
        classes: dict[str, Any] = {"groups": images.class_groups, "class_names": images.class_names}
        sampler = EpisodeSampler(images.labels, **self.train, **classes, seed=self.seed)
        needed = (self.support_sets - 1) * sampler.n_shot[1]
        if sampler.n_query[0] < needed:
            raise DataError(
                f"{self.support_sets} support sets of n_shot = {sampler.n_shot[1]} need n_query of at least {needed}; got "
                f"{sampler.n_query[0]}. Lower support_sets or raise n_query."
            )
        return EpisodeDataset(images, sampler, self.augment, self.class_augment, self.class_augment_share)

    def transfer_batch_to_device(self, batch: EpisodeBatch, device: torch.device, dataloader_idx: int) -> EpisodeBatch:
        """All but the numbers of classes, which a step looks at and should not wait for the device to see."""
        moved: EpisodeBatch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(n_way=batch.n_way)

    def train_dataloader(self) -> EpisodeLoader:
        """New episodes every epoch."""
        loader = EpisodeLoader(
            self._train_data,
            batch_size=self.tasks_per_step,
            sampler=self._numbers(self.episodes_per_epoch, fresh=True, multiple=self.tasks_per_step),
            collate_fn=partial(collate, support_sets=self.support_sets),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
        loader.progress = lambda: 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return loader

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The same episodes every time, a loader per setting."""
        return self._loaders("val")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """A loader per setting."""
        return self._loaders("test")

    def _loaders(self, split: str) -> list[DataLoader[Any]]:
        images = self.images(split)
        loaders = []
        for setting in self.settings[split]:
            sampler = setting.sampler(images, self.seed)
            loader = DataLoader(
                Draws(sampler),
                batch_size=self.tasks_per_batch,
                sampler=self._numbers(self.episodes[split], fresh=False),
                collate_fn=EpisodeDataset(images, sampler).shared_batch,
                num_workers=self.num_workers,
            )
            loaders.append(loader)
        return loaders

    def _numbers(self, episodes: int, *, fresh: bool, multiple: int = 1) -> EpisodeNumbers:
        processes, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        if episodes % (multiple * processes):
            raise DataError(
                f"an epoch of {episodes} episodes does not divide into steps of {multiple} tasks in {processes} processes. "
                f"Use a multiple of {multiple * processes}."
            )
        return EpisodeNumbers(episodes, fresh=fresh, num_replicas=processes, rank=rank)

    def predict_dataloader(self) -> DataLoader[EpisodeBatch]:
        """One task: its support set and all queries."""
        if self.predict_support is None or self.predict_query is None:
            raise DataError("predict needs --data.predict_support and --data.predict_query")
        support, labels, self.predict_classes = self._read_support(self.predict_support)
        query, self.predict_names = self._read_query(self.predict_query)
        n_way = len(self.predict_classes)
        task = Episode(support, labels, query, torch.zeros(len(query), dtype=torch.int64), n_way)
        return DataLoader([task], batch_size=1, collate_fn=collate)  # type: ignore[arg-type]

    def _read_support(self, path: str) -> tuple[Tensor, Tensor, list[str]]:
        if path.endswith(ARRAYS):
            data = load_arrays(path, ("images", "labels"))
            images = to_channels_first(data["images"], path).float() / 255
            names, labels = class_codes(data["labels"], len(images), f"{path}: labels")
            return images, torch.from_numpy(labels), [str(name) for name in names]
        classes = find_folders(Path(path))
        counts = torch.tensor([len(files) for files in classes.values()])
        images = self.reader.open([file for files in classes.values() for file in files])
        return images.float() / 255, torch.arange(len(classes)).repeat_interleave(counts), list(classes)

    def _read_query(self, path: str) -> tuple[Tensor, list[str]]:
        if path.endswith(ARRAYS):
            images = to_channels_first(load_arrays(path, ("images",))["images"], path).float() / 255
            return images, [str(number) for number in range(len(images))]
        files = find_files(Path(path))
        return self.reader.open(files).float() / 255, [file.name for file in files]
