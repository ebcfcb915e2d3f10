"""Group-sparse multiclass SVMs, certified by their duality gap and exactly differentiable, as PyTorch few-shot heads."""

from importlib.metadata import version

from sparsesvm._backends import backends
from sparsesvm.dense_heads import PrototypeHead, RidgeHead
from sparsesvm.fewshot import FittedHead
from sparsesvm.functional import decision_function, duality_gap, lambda1_max, regularization_path, solve
from sparsesvm.head import SparseSVMHead
from sparsesvm.results import ConvergenceError, ConvergenceWarning, RegularizationPath, Solution, StatusCode

__version__ = version("sparsesvm")

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "FittedHead",
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
