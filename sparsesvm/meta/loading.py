"""Objects out of configurations and checkpoints."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from sparsesvm.meta.checkpoint import read_checkpoint
from sparsesvm.meta.data import EpisodeData
from sparsesvm.meta.learner import MetaLearner

Made = TypeVar("Made")
Learner = TypeVar("Learner", bound=MetaLearner)


def load(checkpoint: str | os.PathLike[str]) -> MetaLearner:
    """The learner that `sparsesvm fit` saved, on the CPU and in evaluation mode.

    Raises:
        DataError: if the file is none of its checkpoints.

    Example:
        >>> from sparsesvm.meta import load
        >>> learner = load("runs/digits/checkpoints/best.ckpt")  # of sparsesvm fit --config digits
        >>> learner.head.lambda1_ratio
        0.2
    """
    return restore(MetaLearner, checkpoint).eval()


def restore(kind: type[Learner], checkpoint: str | os.PathLike[str]) -> Learner:
    """A learner of this kind with the weights of a checkpoint, made as the checkpoint says."""
    content = read_checkpoint(checkpoint)
    learner = instantiate(kind, content["sparsesvm"]["configuration"]["model"])
    learner.configuration = content["sparsesvm"]["configuration"]
    learner.on_load_checkpoint(content)
    learner.load_state_dict(content["state_dict"])
    return learner


def load_data(checkpoint: str, root: str | None) -> EpisodeData:
    """The data that a checkpoint was trained with, which may lie elsewhere now.

    Example:
        >>> from sparsesvm.meta import load_data
        >>> type(load_data("runs/digits/checkpoints/best.ckpt", root=None).reader).__name__
        'Digits'
    """
    configuration = read_checkpoint(checkpoint)["sparsesvm"]["configuration"]["data"]
    if root is not None:
        configuration["reader"].setdefault("init_args", {})["root"] = root
    return instantiate(EpisodeData, configuration)


def instantiate(kind: type[Made], configuration: dict[str, Any]) -> Made:
    """An object as a configuration file describes it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "object", fail_untyped=False)
    made: Made = parser.instantiate(parser.parse_object({"object": configuration})).object
    return made
