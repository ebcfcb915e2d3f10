"""liblinear's Crammer-Singer solver through scikit-learn: primal weights, one task per call."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from benchmarks.peers.base import Peer, Solve
from benchmarks.tasks import Answer, Tasks


class Liblinear(Peer):
    """Sequential dual coordinate descent."""

    name = "liblinear"
    about = "liblinear Crammer-Singer through scikit-learn's LinearSVC; setting: tol"
    modules = ("sklearn",)
    sparse = False
    double_only = True
    shipped = 1e-4

    def prepare(self, tasks: Tasks) -> Solve:
        """Its own copy of each task."""
        from sklearn.svm import LinearSVC

        problems = list(zip(tasks.features.numpy(), tasks.labels.numpy(), strict=True))

        def solve(tol: float) -> Answer:
            options = {"C": 1 / tasks.lambda2, "tol": tol, "max_iter": 10_000_000, "random_state": 0}
            model = LinearSVC(multi_class="crammer_singer", fit_intercept=False, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                weights = np.stack([model.fit(*problem).coef_.copy() for problem in problems])
            return Answer(torch.from_numpy(weights))

        return solve
