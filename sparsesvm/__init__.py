"""Group-sparse multiclass SVMs, certified by their duality gap and exactly differentiable, as PyTorch few-shot heads."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

if find_spec("sparsesvm._core") is None:
    folder = Path(__file__).resolve().parent
    raise ImportError(
        f"{folder} holds the sources of sparsesvm without its compiled module: start Python in another folder if sparsesvm is "
        f"installed, or install it for use from here with `pip install --editable {folder.parent}` (or `make demo`)"
    )

from sparsesvm._backends import backends
from sparsesvm.dense_heads import PrototypeHead, RidgeHead
from sparsesvm.fewshot import FittedHead
from sparsesvm.functional import decision_function, duality_gap, lambda1_max, regularization_path, solve
from sparsesvm.head import SparseSVMHead
from sparsesvm.results import ConvergenceError, ConvergenceWarning, NoFeaturesWarning, RegularizationPath, Solution, StatusCode

__version__ = version("sparsesvm")

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "FittedHead",
    "NoFeaturesWarning",
    "PrototypeHead",
    "RegularizationPath",
    "RidgeHead",
    "Solution",
    "SparseSVMHead",
    "StatusCode",
    "backends",
    "decision_function",
    "duality_gap",
    "lambda1_max",
    "regularization_path",
    "solve",
]
