"""`sparsesvm fit`, `validate`, `test` and `predict`: Lightning's command line for a `MetaLearner` on `EpisodeData`."""

from __future__ import annotations

import contextlib
import csv
import importlib.resources
import importlib.util
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from sparsesvm._files import DataError, write_whole
from sparsesvm.meta import report
from sparsesvm.meta.checkpoint import BestAndLast, WholeCheckpointIO, read_checkpoint
from sparsesvm.meta.data import EpisodeData
from sparsesvm.meta.learner import MetaLearner

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", 2**32 - 1)])
CONFIGS = importlib.resources.files("sparsesvm.meta") / "configs"


def run(arguments: Sequence[str]) -> None:
    """Run a subcommand. What is wrong with the data, the configuration or the disk ends the program with one line."""
    # Lightning calls what jsonargparse and torch deprecate, and recommends workers, which are of no use for images in memory.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if {"-h", "--help"} & {*arguments[1:]}:
        print(help_of(arguments[0]))
        return
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    try:
        Command(
            MetaLearner,
            EpisodeData,
            args=prepare(arguments),
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=_Parser,
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


def _comes_from(error: BaseException, package: str) -> bool:
    """Whether a package itself raises the error: what Lightning does is about its options; an encoder that fails shows where."""
    (*_, (frame, _)) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(f"{package}.")


# The options that most runs need: name and value, meaning, and the commands that have it.
OPTIONS = (
    ("--config NAME", "digits, folders, omniglot-small, ... or a YAML file", "fit validate test predict"),
    ("--root PATH", "where the images are", "fit validate test predict"),
    ("--split 0.6,0.2,0.2", "shares of the classes for training, validation, test (folders)", "fit validate test"),
    ("--ckpt_path FILE", "the checkpoint; for fit, last goes on where a run stopped", "fit validate test predict"),
    ("--trainer.default_root_dir FOLDER", "where the results go", "fit validate test predict"),
    ("--trainer.max_epochs N", "length of the training", "fit"),
    ("--trainer.devices N", "processes, together with --trainer.strategy ddp", "fit"),
    ("--seed_everything N", "of all random draws", "fit validate test"),
    ("--model.encoder CLASS", "sparsesvm.meta.Conv4, ResNet12, R2D2 or yours", "fit"),
    ("--model.head CLASS", "sparsesvm.SparseSVMHead, RidgeHead, PrototypeHead or yours", "fit"),
    ("--model.head.lambda1_ratio R", "its sparsity; likewise all options of a class", "fit"),
    ("--model.learning_rate R", "its largest value", "fit"),
    ("--data.n_way N", "classes of an episode; samples: --data.n_shot, --data.n_query", "fit"),
    ("--data.episodes_per_epoch N", "episodes of an epoch", "fit"),
    ("--data.val SETTINGS", "'[{n_way: 5, n_shot: 1}]'; how often: --data.val_episodes", "validate"),
    ("--data.test SETTINGS", "'[{n_way: 5, n_shot: 1}]'; how often: --data.test_episodes", "test"),
    ("--data.predict_support FOLDER", "a folder of images per class, or an .npz file", "predict"),
    ("--data.predict_query FOLDER", "the images to classify", "predict"),
    ("--print_config", "print the whole configuration, to edit and give as --config", "fit validate test predict"),
)
PURPOSES = {
    "fit": "Train an encoder through a head on few-shot episodes: checkpoints, logs, a report.",
    "validate": "Evaluate a checkpoint on the validation split.",
    "test": "Evaluate a checkpoint on the test split.",
    "predict": "Classify images from a few images per class; predictions.csv has the answers.",
}


def help_of(command: str) -> str:
    """The options that matter, on one screen."""
    lines = [f"usage: sparsesvm {command} --config NAME [--OPTION VALUE ...]", "", PURPOSES[command], ""]
    lines += [f"  {option:35}{meaning}" for option, meaning, commands in OPTIONS if command in commands.split()]
    lines += ["", f"All options: sparsesvm {command} --help-all", "Those of a class: --model.head.help sparsesvm.SparseSVMHead"]
    return "\n".join(lines)


def prepare(arguments: Sequence[str]) -> list[str]:
    """Put the path of a packaged configuration for its name and the reader's root and split for `--root` and `--split`; look at a
    checkpoint."""
    prepared: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--root":
            argument = "--data.reader.init_args.root" + equals + value
        elif name == "--split":
            argument = "--data.reader.init_args.split" + equals + _listing(value)
        elif prepared and prepared[-1] == "--data.reader.init_args.split":
            argument = _listing(argument)
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
    raise DataError(f"config must be a file or one of {', '.join(_packaged())}; got {name}")


def _packaged() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in CONFIGS.iterdir() if entry.name.endswith(".yaml"))


def _listing(numbers: str) -> str:
    """0.6,0.2,0.2 as a list that the parser understands."""
    return f"[{numbers}]" if numbers and not numbers.startswith("[") else numbers


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line that names the option, without the eighty lines of the usage, and status 2."""
        prog = (getattr(ex, "subcommand_parser", None) or self).prog.replace(" [options]", "")
        # The parser of an object inside has a name of its own.
        self.exit(2, f"{prog if prog.startswith('sparsesvm') else 'sparsesvm'}: error: {' '.join(message.split())}\n")


class Command(LightningCLI):
    """Lightning's command line with checkpoints, loggers and a report in one folder, trainer.default_root_dir."""

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Lightning's own takes true for "a random seed", and then zero.
        parser.add_argument("--seed_everything", type=Seed, default=self.seed_everything_default, help="of all random draws")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
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
        _check_trainer(config.trainer)
        config.trainer.default_root_dir = config.trainer.default_root_dir or "."
        if config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(Path(config.trainer.default_root_dir) / "checkpoints")

    def instantiate_classes(self) -> None:
        try:
            with self._complaints_of_lightning():
                super().instantiate_classes()
        except DataError:
            raise
        except ValueError as error:
            # A value out of range, which our classes name; for an optional object jsonargparse wraps their error in its own.
            cause = error.__cause__ or error
            raise (DataError(str(cause)) if _comes_from(cause, "sparsesvm") else self._unnamed(cause)) from error
        self.model.configuration = {key: self.config_dump[key] for key in ("model", "data")}

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        given = self.config_init[self.subcommand].trainer
        root = Path(given.default_root_dir)
        if given.logger in (None, True):
            kwargs["logger"] = _loggers(root) if self.subcommand == "fit" else [CSVLogger(root, "logs")]
        kwargs["plugins"] = [WholeCheckpointIO(), *_listed(given.plugins)]
        if self.subcommand == "predict":
            kwargs["callbacks"] = [*_listed(given.callbacks), _PredictionWriter(root / "predictions.csv")]
        if self.subcommand != "fit" and self.config[self.subcommand].ckpt_path is None:
            print("without --ckpt_path the weights are random", file=sys.stderr)
        if given.enable_checkpointing is False:
            self._parser(self.subcommand).callback_keys.remove("checkpoint")
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        with self._complaints_of_lightning():
            super()._run_subcommand(subcommand)

    def _dump_config(self) -> None:
        try:
            super()._dump_config()
        except Exception as error:  # whatever YAML cannot say
            raise self._unnamed(error) from error

    @contextlib.contextmanager
    def _complaints_of_lightning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _comes_from(error, "lightning"):
                raise
            raise self._unnamed(error) from error

    def _unnamed(self, error: BaseException) -> DataError:
        """The error in one line, with the options given, as it need not name the one at fault."""
        parser, given = self._parser(self.subcommand), self.config[self.subcommand]
        default = parser.get_defaults()
        changed = [
            f"{group}.{name}={value}"
            for group in ("trainer", "checkpoint")
            for name, value in vars(given[group]).items()
            if value != default[group][name]
        ]
        return DataError(f"{' '.join(str(error).split())} (given: {', '.join(changed)})")

    def after_fit(self) -> None:
        """The table and the figures of the best checkpoint."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not (self.trainer.is_global_zero and self.config[self.subcommand].report) or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not best:
            print("there is no report: no checkpoint is the best one, for which a validation must run", file=sys.stderr)
            return
        episodes, seed = self.datamodule.episodes["test"], self.config[self.subcommand].seed_everything
        output = Path(self.trainer.default_root_dir) / "report"
        arguments = [best, "--output", str(output), "--episodes", str(episodes), "--seed", str(int(seed))]
        try:
            report.run(report.make_parser().parse_args(arguments))
        except DataError as error:
            print(f"trained, but there is no report on the test split: {error}", file=sys.stderr)


def _listed(given: Any) -> list[Any]:
    """Lightning takes one object for a list of it."""
    return given if isinstance(given, list) else [] if given is None else [given]


def _check_trainer(given: Any) -> None:
    """Options of Lightning's trainer that mean nothing here, and values on which it fails in words of its own."""
    if given.barebones:
        raise DataError("trainer.barebones must be false: a run without logs and checkpoints leaves nothing. Use fast_dev_run.")
    if given.overfit_batches:
        raise DataError(
            f"trainer.overfit_batches must be 0, as every episode is drawn once; got {given.overfit_batches}. "
            "Use data.episodes_per_epoch for fewer of them."
        )
    strategy = given.strategy
    launch = strategy if isinstance(strategy, str) else str(strategy.get("init_args", {}).get("start_method", ""))
    if any(way in launch for way in ("spawn", "fork", "notebook")):
        raise DataError(
            f"trainer.strategy must start its processes anew, as ddp does; got {launch}, which hands back weights alone"
        )
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        if given[name] is not None and given[name] < 1:
            raise DataError(f"trainer.{name} must be at least 1; got {given[name]}")


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
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["image", "class"])
        for name, code in zip(data.predict_names, prediction[0].tolist(), strict=True):
            writer.writerow([name, data.predict_classes[code]])
        write_whole(self.path, table.getvalue())
        print(f"Written: {self.path}")
