"""Meta-learning with sparse heads on real data: episodes, encoders, training on Lightning, paired evaluation.

Needs the extra: pip install 'sparsesvm[meta]'.
"""

try:
    import jsonargparse  # noqa: F401
    import lightning  # noqa: F401
    import matplotlib  # noqa: F401
    import PIL  # noqa: F401
    import safetensors  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"sparsesvm.meta needs {missing.name}: pip install 'sparsesvm[meta]'", name=missing.name
    ) from missing

from sparsesvm._files import DataError
from sparsesvm.meta.augment import Augment, rotate_classes
from sparsesvm.meta.batches import Episode, EpisodeBatch, EpisodeDataset, collate
from sparsesvm.meta.checkpoint import WholeCheckpointIO
from sparsesvm.meta.data import EpisodeData, Setting
from sparsesvm.meta.datasets import Arrays, ClassFolders, Digits
from sparsesvm.meta.encoders import R2D2, BatchNorm2d, Conv4, DropBlock, ResNet12
from sparsesvm.meta.episodes import Draw, EpisodeNumbers, EpisodeSampler
from sparsesvm.meta.evaluate import Comparison, Method, Score, compare, default_methods, embed, read_features
from sparsesvm.meta.images import ImageSet, Reader
from sparsesvm.meta.learner import MetaLearner
from sparsesvm.meta.loading import load, load_data
from sparsesvm.meta.omniglot import Omniglot

__all__ = [
    "R2D2",
    "Arrays",
    "Augment",
    "BatchNorm2d",
    "ClassFolders",
    "Comparison",
    "Conv4",
    "DataError",
    "Digits",
    "Draw",
    "DropBlock",
    "Episode",
    "EpisodeBatch",
    "EpisodeData",
    "EpisodeDataset",
    "EpisodeNumbers",
    "EpisodeSampler",
    "ImageSet",
    "MetaLearner",
    "Method",
    "Omniglot",
    "Reader",
    "ResNet12",
    "Score",
    "Setting",
    "WholeCheckpointIO",
    "collate",
    "compare",
    "default_methods",
    "embed",
    "load",
    "load_data",
    "read_features",
    "rotate_classes",
]
