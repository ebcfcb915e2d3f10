"""Meta-learning: an encoder trained so that a head fitted to a few of its features classifies well."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import CatMetric
from typing_extensions import Self

from sparsesvm import FittedHead, SparseSVMHead, _checks
from sparsesvm._facts import interval
from sparsesvm._files import DataError, class_codes, whole_file, write_whole
from sparsesvm._shrink import shrink
from sparsesvm.fewshot import FewShotHead
from sparsesvm.meta.augment import Augment
from sparsesvm.meta.batches import IGNORE, EpisodeBatch
from sparsesvm.meta.checkpoint import CONFIGURATION, WEIGHTS
from sparsesvm.meta.images import to_images
from sparsesvm.results import unconverged


class MetaLearner(lightning.LightningModule):
    """An encoder and a head, trained on episodes.

    The head is fitted to the support set of each task; the loss is the cross entropy of its query logits, a mean over the queries
    of a task and then over tasks, and its gradient reaches the encoder through the head's solution.

    Args:
        encoder: (n, channels, height, width) to (n, n_features).
        head: `SparseSVMHead`, `RidgeHead`, `PrototypeHead`, or a module with their call.
        auxiliary_head: a second head, fitted in training alone; the loss is then the mean of both heads' losses. A dense head
            beside a sparse one sends a gradient to the features that no task of the batch has selected.
        optimizer: "adam" (decoupled weight decay), "sgd" with Nesterov momentum 0.9, or what makes an optimizer of parameters: on
            the command line a class and its options, here e.g. functools.partial(torch.optim.RAdam, lr=0.01).
        learning_rate: largest or first value for "adam" and "sgd".
        weight_decay: of "adam" and "sgd". As that of any optimizer it applies to the encoder's matrices and filters alone, not to
            biases, batch norm and the head.
        schedule: "cosine" to zero over the run, learning rates from certain epochs on, e.g. {20: 0.006, 40: 0.0012}, or what
            makes a scheduler of an optimizer, stepped after every epoch and without warm-up.
        warmup_steps: steps over which the learning rate grows to its value.
        label_smoothing: of the cross entropy.
        sparsity_warmup: share of the run over which a `SparseSVMHead` turns from dense to sparse: its lambda1_ratio grows from
            zero to its value, and max_active falls from one, both linearly.
        seed: of dropout and other draws in training; the same numbers are drawn after a resume.

    Attributes:
        configuration: how the command line made this learner ("model") and its data ("data"); kept in checkpoints for `load`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        optimizer: Literal["adam", "sgd"] | OptimizerCallable = "adam",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: Literal["cosine"] | dict[int, float] | LRSchedulerCallable = "cosine",
        warmup_steps: int = 50,
        label_smoothing: float = 0.0,
        sparsity_warmup: float = 0.0,
        seed: int = 0,
        auxiliary_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= sparsity_warmup <= 1:
            raise ValueError(f"sparsity_warmup must lie in [0, 1]; got {sparsity_warmup}")
        if sparsity_warmup and not (
            isinstance(head, SparseSVMHead) and head.log_lambda1_ratio is None and (head.lambda1_ratio or head.max_active < 1)
        ):
            raise ValueError("sparsity_warmup needs a SparseSVMHead with a fixed lambda1_ratio > 0 or with max_active < 1")
        for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            _checks.check_number(name, value)
        _checks.check_integer("warmup_steps", warmup_steps, minimum=0)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1]; got {label_smoothing}")
        if isinstance(schedule, dict):
            for start, rate in schedule.items():
                _checks.check_integer("an epoch of schedule", int(start), minimum=0)
                _checks.check_number("a learning rate of schedule", rate)
        if optimizer not in ("adam", "sgd") and not callable(optimizer):
            raise ValueError(f"optimizer must be adam or sgd, or make an optimizer of parameters; got {optimizer!r}")
        self.encoder, self.head = encoder.to(memory_format=torch.channels_last), head  # type: ignore[call-overload]
        self.optimizer, self.learning_rate, self.weight_decay = optimizer, learning_rate, weight_decay
        self.schedule, self.warmup_steps, self.label_smoothing = schedule, warmup_steps, label_smoothing
        self.sparsity_warmup, self.seed, self.auxiliary_head = sparsity_warmup, seed, auxiliary_head
        self.configuration: dict[str, Any] = {}
        self._sparsity = (head.lambda1_ratio, head.max_active) if isinstance(head, SparseSVMHead) else None
        self._image_shape: list[int] | None = None
        self._watch = _Watch()
        self._accuracies: dict[int, CatMetric] = {}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        decayed = [p for p in self.encoder.parameters() if p.dim() > 1]
        others = [p for p in self.parameters() if not any(p is q for q in decayed)]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        numbers: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adam":
            optimizer = torch.optim.AdamW(groups, **numbers)
        elif self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, **numbers)
        else:
            optimizer = self.optimizer(groups)
        if callable(self.schedule):
            scheduler = self.schedule(optimizer)
            monitor: Any = getattr(scheduler, "monitor", None)  # of Lightning's ReduceLROnPlateau
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        self._first_rate = optimizer.param_groups[0]["lr"]
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate), "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """The learning rate as a share of its largest value."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if step == 0:  # asked before training, when Lightning would load data to tell how many steps there are
            return warm
        total = max(1, int(self.trainer.estimated_stepping_batches))
        if self.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
        epoch = step / total * (self.trainer.max_epochs or 1)
        assert isinstance(self.schedule, dict)
        reached = [rate for start, rate in sorted(self.schedule.items(), key=lambda item: int(item[0])) if epoch >= int(start)]
        return warm * (reached[-1] / self._first_rate if reached else 1.0)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *arguments: Any, **options: Any) -> Self:
        """The learner that `sparsesvm fit` saved: no arguments besides the path are needed, `map_location` may be given.

        Lightning's own function, which takes the `encoder` and the `head` to load the weights into, where these are given.

        Raises:
            DataError: if the file does not say how its learner was made, and encoder and head are not given.
        """
        if arguments or options.keys() - {"map_location"}:
            return super().load_from_checkpoint(checkpoint_path, *arguments, **options)
        from sparsesvm.meta.loading import restore  # which makes learners

        return restore(cls, checkpoint_path).to(options.get("map_location") or "cpu")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write what `sparsesvm.meta.load(folder)` needs, and no training state: the weights as model.safetensors, how learner
        and data were made as config.yaml.

        Raises:
            DataError: if the learner was made in Python, so that it does not know how; or if a file cannot be written.

        Example:
            >>> from sparsesvm.meta import load
            >>> load("runs/digits/checkpoints/best.ckpt").save_pretrained("digits")
            >>> load("digits").head.lambda1_ratio
            0.2
        """
        if not self.configuration:
            raise DataError(
                "save_pretrained needs a learner of `sparsesvm fit`, whose configuration says how it was made; "
                "this one was made in Python. Save its state_dict() instead."
            )
        target = Path(folder)
        with whole_file(target / WEIGHTS) as opened:
            opened.write(save({name: value.contiguous() for name, value in self.state_dict().items()}))
        made = self.configuration | {"image_shape": self._image_shape}
        write_whole(target / CONFIGURATION, yaml.safe_dump(made, sort_keys=False))

    def on_fit_start(self) -> None:
        """How the learner was made goes to the loggers."""
        described = {name: str(value) for name, value in (("encoder", type(self.encoder).__name__), ("head", self.head))}
        numbers = ("optimizer", "learning_rate", "weight_decay", "schedule", "warmup_steps", "label_smoothing", "sparsity_warmup")
        values = {name: getattr(self, name) for name in numbers}
        values = {name: str(value) if callable(value) else value for name, value in values.items()}
        made: dict[str, Any] = self.configuration or described | values
        for logger in self.trainer.loggers:
            logger.log_hyperparams(made)

    def encode(self, images: Tensor) -> Tensor:
        """Features (n, n_features) of images (n, channels, height, width), in float32 under mixed precision too."""
        try:
            features: Tensor = self.encoder(images.contiguous(memory_format=torch.channels_last))
        except RuntimeError as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or not type(self.encoder).__module__.startswith("sparsesvm."):
                raise
            shape, reason = tuple(images.shape[1:]), str(error).splitlines()[0]
            raise DataError(f"{type(self.encoder).__name__} does not take images of shape {shape}: {reason}") from error
        return features.flatten(1).float()

    def forward(self, batch: EpisodeBatch) -> list[tuple[Tensor, Tensor]]:
        """Query logits (tasks, n_query, n_way) of the tasks of each number of classes, and which tasks these are."""
        return [(logits, tasks) for (logits,), tasks in self._classify(self.encode(batch.images), batch, self.head)]

    def _classify(self, features: Tensor, batch: EpisodeBatch, *heads: nn.Module) -> Iterator[tuple[list[Tensor], Tensor]]:
        """For the tasks of each number of classes: the query logits of each head, and which tasks these are."""
        for n_way in batch.n_way.unique().tolist():
            tasks = (batch.n_way == n_way).nonzero().squeeze(1)
            support = functional.embedding(batch.support[tasks], features)  # features[...] has a slow derivative on the CPU
            fit = (support, batch.support_labels[tasks], n_way)
            weight, rows = batch.support_weight[tasks], batch.query[tasks]
            ours = all(isinstance(head, FewShotHead) for head in heads)
            # Where most images are queries of every task, scoring all of them costs less than copies of the queries.
            score_all = ours and len(features) <= 1.5 * rows.shape[1]
            query = features if score_all else functional.embedding(rows, features)
            try:
                logits = [head(query, *fit, sample_weight=weight) for head in heads]
            except ValueError as error:
                if not features.isfinite().all():
                    raise DataError(
                        f"the encoder gives features that are not finite, after {self.global_step} training steps. "
                        "Lower learning_rate or use a wider trainer.precision."
                    ) from error
                if ours:
                    raise DataError(str(error)) from error  # an option that does not suit the features
                raise
            if score_all:
                chosen = rows.unsqueeze(-1).expand(-1, -1, n_way)
                logits = [scored.gather(1, chosen) for scored in logits]
            yield logits, tasks

    def on_train_batch_start(self, batch: EpisodeBatch, batch_idx: int) -> None:
        # What dropout draws depends on the step and the process alone, whatever happened before a resume.
        number = self.current_epoch * len(self.trainer.train_dataloader) + batch_idx  # type: ignore[arg-type]
        draws = np.random.SeedSequence([self.seed, number, self.global_rank])
        torch.manual_seed(int(draws.generate_state(1)[0]))
        self._image_shape = list(batch.images.shape[1:])
        if self.sparsity_warmup:
            self._set_sparsity(min(1.0, self.global_step / (self.sparsity_warmup * self.trainer.estimated_stepping_batches)))

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        features = self.encode(batch.images)
        values: dict[str, Tensor] = {}
        losses, hits = [], []
        self._watch.start(features)
        heads = [self.head] if self.auxiliary_head is None else [self.head, self.auxiliary_head]
        for logits, tasks in self._classify(features, batch, *heads):
            labels = batch.query_labels[tasks]
            losses += [self._task_losses(found, labels) for found in logits]
            hits.append(task_accuracy(logits[0], labels))
            values |= self._solution_values()
        loss = self._watch.stop(torch.cat(losses).mean())
        values |= {"loss": loss.detach(), "accuracy": torch.cat(hits).mean()}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(batch.n_way))
        self.log("train_accuracy", values["accuracy"], prog_bar=True, logger=False, batch_size=len(batch.n_way))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: EpisodeBatch, batch_idx: int) -> None:
        self.log("train/head_ms", 1e3 * self._watch.seconds, batch_size=len(batch.n_way))

    def _task_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        losses = functional.cross_entropy(logits.mT, labels, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
        return losses.sum(-1) / (labels != IGNORE).sum(-1)

    def _solution_values(self) -> dict[str, Tensor]:
        """What the head says of its last solution: of the last group of tasks, where they differ in their number of classes."""
        solution = self.head.last_solution if isinstance(self.head, SparseSVMHead) else None
        if solution is None:
            return {}
        return {
            "features_used": solution.active.float().mean(),
            "gap": solution.gap.max().float(),
            "unconverged": unconverged(solution.status).float().mean(),
        }

    def _set_sparsity(self, share: float) -> None:
        if isinstance(self.head, SparseSVMHead) and self._sparsity is not None:
            ratio, max_active = self._sparsity
            self.head.lambda1_ratio = None if ratio is None else share * ratio
            self.head.max_active = 1 + share * (max_active - 1)

    def on_validation_start(self) -> None:
        if self.sparsity_warmup:
            self._set_sparsity(1.0)

    def on_train_end(self) -> None:
        self.on_validation_start()

    def validation_step(self, batch: EpisodeBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        found = torch.cat([task_accuracy(logits, batch.query_labels[tasks]) for logits, tasks in self(batch)])
        # NaN is kept: looking for it would wait for the device.
        metric = self._accuracies.setdefault(dataloader_idx, CatMetric(nan_strategy="disable").to(self.device))
        metric.update(found)

    def test_step(self, batch: EpisodeBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_accuracies("val")

    def on_test_epoch_end(self) -> None:
        self._log_accuracies("test")

    def _log_accuracies(self, stage: str) -> None:
        """Mean accuracy of each setting, half the width of its 95 % interval (the name with ±), and the mean of the settings."""
        names = getattr(getattr(self.trainer, "datamodule", None), "names", {}).get(stage, [])
        means = []
        for number, metric in sorted(self._accuracies.items()):
            name = names[number] if number < len(names) else str(number)
            accuracy = metric.compute().flatten().double()  # of all processes; a single one comes without a dimension
            means.append(accuracy.mean())
            self.log(f"{stage}/{name}", accuracy.mean().float())
            self.log(f"{stage}/{name} ±", interval(accuracy.cpu()))
        self._accuracies.clear()
        self.log(f"{stage}/accuracy", torch.stack(means).mean().float(), prog_bar=True)

    def predict_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """Classes (tasks, n_query) of the queries."""
        ((logits, _),) = self(batch)
        return logits.argmax(-1)  # type: ignore[no-any-return]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sparsesvm"] = {"configuration": self.configuration, "image_shape": self._image_shape}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        own = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        for name in sorted(saved.keys() | own.keys()):
            if saved.get(name) != own.get(name):
                raise DataError(
                    f"the checkpoint is of another encoder or head: {name} is {saved.get(name, 'absent')} in the checkpoint and "
                    f"{own.get(name, 'absent')} here. Use the configuration it was trained with."
                )
        self._image_shape = checkpoint.get("sparsesvm", {}).get("image_shape")

    @torch.no_grad()
    def embed(self, images: ArrayLike | Tensor, *, copies: int = 0, augment: Augment | None = None, seed: int = 0) -> Tensor:
        """Features (n, n_features) of images given as arrays, in evaluation mode.

        Args:
            images: (n, height, width), (n, channels, height, width) or (n, height, width, channels), uint8, bool, or
                floating-point from 0 to 1; or a list of pictures of Pillow. Resized to the size of the training images by
                averaging over areas; as in training, e.g. ink 1 on 0.
            copies: the mean over the image and so many randomly changed copies is returned.
            augment: how they are changed; by default moved by up to 3.5 %, turned by 5 degrees, stretched by 6 %, sheared by 0.1.
            seed: of the changes.
        """
        copies = _checks.check_integer("copies", copies, minimum=0)
        pixels = self._prepare(images)
        augment = augment or Augment(shift=0.035, rotate=5, scale=0.06, shear=0.1)
        generator = torch.Generator().manual_seed(seed)
        training = self.training
        self.eval()
        try:
            parts = []
            for chunk in pixels.split(512):
                total = self.encode(chunk)
                for _ in range(copies):
                    total = total + self.encode(augment(chunk, generator))
                parts.append(total / (copies + 1))
            return torch.cat(parts)
        finally:
            self.train(training)

    def _prepare(self, images: ArrayLike | Tensor) -> Tensor:
        pixels = to_images(images)
        if self._image_shape is not None:
            channels, height, width = self._image_shape
            if pixels.shape[1] != channels:
                raise ValueError(f"images must have {channels} channels, as in training; got {pixels.shape[1]}")
            pixels = shrink(pixels, height, width)
        return pixels.to(self.device)

    @torch.no_grad()
    def classify(
        self,
        support_images: ArrayLike | Tensor,
        support_labels: ArrayLike | Tensor,
        query_images: ArrayLike | Tensor,
        *,
        copies: int = 0,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> Tensor | NDArray[np.str_]:
        """Classes (n_query,) of query images, out of the labels of the support images, one or more per class.

        Args:
            support_labels: (n_support,) integers of any value, or names; they are what is returned, names as an array.
            support_images, query_images, copies, augment, seed: as in `embed`.
        """
        options: dict[str, Any] = {"copies": copies, "augment": augment}
        support = self.embed(support_images, seed=seed, **options)
        classes, codes = class_codes(support_labels, len(support), "support_labels")
        labels = torch.from_numpy(codes).to(support.device)
        fitted: FittedHead = self.head.fit(support, labels, len(classes))  # type: ignore[operator]
        predicted: Tensor = fitted.predict(self.embed(query_images, seed=seed + 1, **options))
        if classes.dtype.kind == "U":
            found: NDArray[np.str_] = classes[predicted.cpu().numpy()]
            return found
        return torch.from_numpy(classes).to(predicted.device)[predicted]


def task_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the queries of each task (tasks,) that get their label; padding does not count."""
    counted = labels != IGNORE
    return ((logits.argmax(-1) == labels) & counted).sum(-1) / counted.sum(-1)


class _Watch:
    """Time of the head in a training step, forward and backward: on a GPU the time until its work is queued."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds = self._begin = 0.0

    def start(self, features: Tensor) -> None:
        self.seconds, self._begin = 0.0, self.now()
        if features.requires_grad:
            features.register_hook(lambda _: self._add())  # runs when the gradient has come through the head

    def stop(self, loss: Tensor) -> Tensor:
        self._add()
        if loss.requires_grad:
            loss.register_hook(lambda _: self._restart())
        return loss

    def _restart(self) -> None:
        self._begin = self.now()

    def _add(self) -> None:
        self.seconds += self.now() - self._begin
