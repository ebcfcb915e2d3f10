"""`sparsesvm fit`, `validate`, `test` and `predict`: Lightning's command line for a `MetaLearner` on `EpisodeData`."""

from __future__ import annotations

import csv
import importlib.resources
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from sparsesvm.meta import report
from sparsesvm.meta.checkpoint import BestAndLast, WholeCheckpointIO, read_checkpoint
from sparsesvm.meta.data import EpisodeData
from sparsesvm.meta.errors import DataError
from sparsesvm.meta.learner import MetaLearner

CONFIGS = importlib.resources.files("sparsesvm.meta") / "configs"


def run(arguments: Sequence[str]) -> None:
    """Run a subcommand. What is wrong with the data, the configuration or the disk ends the program with one line."""
    # Lightning calls what jsonargparse and torch deprecate, and recommends workers, which are of no use for images in memory.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    try:
        Command(
            MetaLearner,
            EpisodeData,
            args=prepare(arguments),
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "sparsesvm", "default_env": False},
            trainer_defaults={
                "default_root_dir": "sparsesvm-run",
                "num_sanity_val_steps": 0,
                "gradient_clip_val": 5.0,
                "log_every_n_steps": 1,
            },
            save_config_kwargs={"overwrite": True},
        )
    except (DataError, OSError) as error:
        # What a worker process raised ends with its message.
        raise SystemExit(f"sparsesvm {arguments[0]}: {str(error).strip().splitlines()[-1]}") from error


def prepare(arguments: Sequence[str]) -> list[str]:
    """Put the path of a packaged configuration for its name and the reader's root for `--root`; look at a checkpoint."""
    prepared: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--root":
            argument = "--data.reader.init_args.root" + equals + value
        elif name == "--config" and equals:
            argument = f"--config={find_config(value)}"
        elif prepared and prepared[-1] in ("--config", "-c"):
            argument = find_config(argument)
        elif (prepared and prepared[-1] == "--ckpt_path") or name == "--ckpt_path":
            path = value or argument
            if Path(path).is_file():
                read_checkpoint(path)  # before Lightning reads it in its own way
        prepared.append(argument)
    return prepared


def find_config(name: str) -> str:
    """The path itself if there is such a file, else that of the packaged configuration of this name."""
    if Path(name).is_file():
        return name
    packaged = CONFIGS / f"{name}.yaml"
    if packaged.is_file():
        return str(packaged)
    known = sorted(entry.name.removesuffix(".yaml") for entry in CONFIGS.iterdir() if entry.name.endswith(".yaml"))
    raise DataError(f"config must be a file or one of {', '.join(known)}; got {name}")


class Command(LightningCLI):
    """Lightning's command line with checkpoints, loggers and a report in one folder, trainer.default_root_dir."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.seed")
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
                "checkpoint.save_last": True,
            }
        )
        parser.add_argument("--report", type=bool, default=True, help="after fit, evaluate the best checkpoint on the test split")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(Path(config.trainer.default_root_dir) / "checkpoints")

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            # A value out of range, which our classes name; for an optional object jsonargparse wraps their error in its own.
            raise DataError(str(error.__cause__ or error)) from error
        self.model.configuration = {key: self.config_dump[key] for key in ("model", "data")}

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        given = self.config_init[self.subcommand].trainer
        root = Path(given.default_root_dir)
        if given.logger in (None, True):
            kwargs["logger"] = _loggers(root) if self.subcommand == "fit" else [CSVLogger(root, "logs")]
        plugins = given.plugins or []
        kwargs["plugins"] = [WholeCheckpointIO(), *(plugins if isinstance(plugins, list) else [plugins])]
        if self.subcommand == "predict":
            kwargs["callbacks"] = [*(given.callbacks or []), _PredictionWriter(root / "predictions.csv")]
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """The table and the figures of the best checkpoint."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not (best and self.trainer.is_global_zero and self.config[self.subcommand].report):
            return
        episodes, seed = self.datamodule.episodes["test"], self.config[self.subcommand].seed_everything
        output = Path(self.trainer.default_root_dir) / "report"
        arguments = [best, "--output", str(output), "--episodes", str(episodes), "--seed", str(int(seed))]
        try:
            report.run(report.make_parser().parse_args(arguments))
        except DataError as error:
            print(f"trained, but there is no report on the test split: {error}", file=sys.stderr)


def _loggers(root: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(root, "logs")]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(root, "tensorboard"))
    return loggers


class _PredictionWriter(BasePredictionWriter):
    """Writes the name and the class of every query image."""

    def __init__(self, path: Path) -> None:
        super().__init__("batch")
        self.path = path

    def write_on_batch_end(self, trainer: Any, pl_module: Any, prediction: Any, *_: Any) -> None:
        data: EpisodeData = trainer.datamodule
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["image", "class"])
            for name, code in zip(data.predict_names, prediction[0].tolist(), strict=True):
                writer.writerow([name, data.predict_classes[code]])
        print(f"Written: {self.path}")
