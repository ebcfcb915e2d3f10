"""The common shape of the peers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from torch import Tensor

from benchmarks.tasks import Answer, Tasks

Solve = Callable[[float], Answer]
Differentiate = Callable[[float], Tensor]


class Peer(ABC):
    """One way to solve the tasks; a subclass says what it can do and adapts one library or algorithm.

    `settings` go from cheap to accurate. What `prepare` does (conversion of arrays, compilation for a shape) is not timed;
    what the callable that it returns does is.
    """

    name: str
    about: str
    modules: Sequence[str] = ()  # without these it is absent
    library = True  # a published package, not an algorithm written here
    sparse = True  # solves lambda1 > 0
    double_only = False  # converts float32 to float64
    differentiable = False
    settings: Sequence[float] = tuple(10.0**-power for power in range(1, 13))
    counts = False  # settings are numbers of steps, doubled: the harness narrows the last doubling down
    compiles = False  # the first call of each setting is slow
    shipped: float | None = None  # the setting that users get unless they choose another
    shipped_as = "the setting is the default"

    def missing(self) -> str | None:
        """The first module that is not installed."""
        return next((module for module in self.modules if find_spec(module) is None), None)

    def refusal(self, tasks: Tasks) -> str | None:
        """Why these tasks are out of reach, if they are."""
        return "lambda1 = 0 only" if tasks.lambda1 > 0 and not self.sparse else None

    def as_shipped(self) -> Peer:
        """This peer with all of its defaults, where those differ in more than the setting."""
        return self

    @abstractmethod
    def prepare(self, tasks: Tasks) -> Solve:
        """The solve: setting -> answer."""

    def prepare_gradient(self, tasks: Tasks, cotangent: Tensor) -> Differentiate:
        """Forward and backward: setting -> gradient (tasks, n, m) of <cotangent, weights> with respect to the features."""
        raise TypeError(f"{self.name} is not differentiable")
