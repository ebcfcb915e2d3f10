"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file
from typing_extensions import override

from sparsesvm._files import DataError, whole_file

WEIGHTS, CONFIGURATION = "model.safetensors", "config.yaml"  # in a folder of MetaLearner.save_pretrained


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes whole files; reads tensors and plain values only, never pickled code."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with whole_file(path) as opened:
            torch.save(checkpoint, opened)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None) -> Any:
        return read_checkpoint(path)


class BestAndLast(ModelCheckpoint):
    """With `save_last` true, last.ckpt is written after every epoch, not only where there is a new best one: a resumed run
    repeats one epoch at most, and a complete one nothing."""

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_last is True and self.dirpath and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
            trainer.save_checkpoint(path, self.save_weights_only)

    @override
    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint of `sparsesvm fit` or of a folder of `MetaLearner.save_pretrained`; pickled code is refused."""
    try:
        content: dict[str, Any] = _read_folder(Path(path)) if Path(path).is_dir() else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # whatever a file of another kind makes torch raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as a checkpoint: {reason}") from error
    own = content.get("sparsesvm") if isinstance(content, dict) else None
    if not isinstance(own, dict) or not own.get("configuration"):
        raise DataError(
            f"{path} is not a checkpoint of `sparsesvm fit`: it does not say how its learner was made. "
            "Load the weights of a learner made in Python with MetaLearner.load_from_checkpoint(path, encoder=..., head=...)."
        )
    return content


def _read_folder(folder: Path) -> dict[str, Any]:
    made = yaml.safe_load((folder / CONFIGURATION).read_text())
    return {
        "pytorch-lightning_version": lightning.__version__,  # which Lightning asks for
        "state_dict": load_file(folder / WEIGHTS),
        "sparsesvm": {"configuration": {key: made[key] for key in ("model", "data")}, "image_shape": made["image_shape"]},
    }
