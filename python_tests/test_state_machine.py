"""One problem through many hands: solved again and again while it is rescaled, permuted, batched, made sparse, stored and warm
started, it keeps one minimum, every answer is certified and honest about itself, and no input changes."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import sparsesvm
from benchmarks.problems import Problem, weakly_ridged
from benchmarks.random_problems import CERTIFIED, checked, solve_together
from sparsesvm import StatusCode

TOL = 1e-7
TYPES = st.sampled_from(["float64", "float32"])
SEEDS = st.integers(0, 2**16)


class OneProblem(RuleBasedStateMachine):
    """Features are numbers of single precision and units are powers of two, so that both types see the same problem."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed):
        rng = np.random.default_rng(seed)
        problem = weakly_ridged(rng, sizes=(int(rng.integers(2, 13)), int(rng.integers(1, 25))))
        features = problem.features.astype(np.float32).astype(float)
        groups = features.shape[1] // problem.group_size
        self.problem = replace(problem, features=features, group_weight=np.exp(rng.normal(size=groups)))
        self.bounds: list[tuple[float, float]] = []  # of the minimum, which changes with lambda1 alone
        self.earlier: list[tuple[Problem, sparsesvm.Solution]] = []
        self.given = copy.deepcopy(self.problem)

    def change(self, **changes):
        self.problem = replace(self.problem, **changes)
        self.given = copy.deepcopy(self.problem)

    def accept(self, problem, found, dtype, tol=TOL):
        """An answer whose claims are true; one for the problem at hand has its minimum."""
        assert checked(problem, found, dtype, tol)["false"] == []
        status, total = StatusCode(int(found.status)), problem.sample_weight.sum()
        # Rounding to single precision follows the certificate, and dropping weights may lower the gap after the last iteration.
        assert status.name in CERTIFIED or status == StatusCode.MAX_ITER
        assert dtype == "float32" or status == StatusCode.MAX_ITER or found.gap <= tol * total
        assert (status == StatusCode.NOT_UNIQUE) <= (problem.lambda2 == 0)
        self.earlier.append((problem, found))
        if problem is self.problem:
            objective, slack = float(found.objective), TOL * total
            self.bounds.append((objective - float(found.gap) - slack, objective + slack))

    @invariant()
    def nothing_given_was_modified(self):
        for name in ("features", "labels", "sample_weight", "group_weight"):
            np.testing.assert_array_equal(getattr(self.problem, name), getattr(self.given, name))

    @invariant()
    def all_answers_agree_on_the_minimum(self):
        assert not self.bounds or max(low for low, _ in self.bounds) <= min(high for _, high in self.bounds)

    @rule(dtype=TYPES, sparse=st.booleans())
    def solve(self, dtype, sparse):
        found = self.problem.solve(getattr(torch, dtype), sparse=sparse, tol=TOL, on_failure="raise")
        self.accept(self.problem, found, dtype)

    @rule(max_iter=st.integers(0, 3), tol=st.sampled_from([1e-2, 1e-4, 1e-9]))
    def stop_early(self, max_iter, tol):
        found = self.problem.solve(max_iter=max_iter, tol=tol, on_failure="ignore")
        self.accept(self.problem, found, "float64", tol)

    @precondition(lambda self: self.earlier)
    @rule(pick=SEEDS, dtype=TYPES)
    def start_from_an_earlier_dual(self, pick, dtype):
        dual = self.earlier[pick % len(self.earlier)][1].dual.double()
        before = dual.clone()
        found = self.problem.solve(getattr(torch, dtype), init_dual=dual, tol=TOL, on_failure="raise")
        self.accept(self.problem, found, dtype)
        assert torch.equal(dual, before)

    @precondition(lambda self: self.problem.lambda1 > 0)
    @rule(factor=st.floats(0.25, 2))
    def change_lambda1(self, factor):
        """The minimum is concave and does not fall as lambda1 grows, nor grows faster than by its factor."""
        before = self.bounds
        self.change(lambda1=factor * self.problem.lambda1)
        self.bounds = []
        self.solve("float64", False)
        for low, high in before:
            now_low, now_high = self.bounds[-1]
            smaller, larger = ((low, high), (now_low, now_high)) if factor >= 1 else ((now_low, now_high), (low, high))
            assert smaller[0] <= larger[1]
            assert larger[0] <= max(factor, 1 / factor) * smaller[1]

    @rule(power=st.integers(-20, 20))
    def change_units(self, power):
        before = self.problem.solve(tol=TOL, on_failure="raise")
        scaled = self.problem.scaled(2.0**power)
        self.change(**{name: getattr(scaled, name) for name in ("features", "lambda1", "lambda2", "dual_reg")})
        after = self.problem.solve(tol=TOL, on_failure="raise")
        self.accept(self.problem, after, "float64")
        torch.testing.assert_close(after.objective, before.objective, rtol=0, atol=float(before.gap + after.gap) + TOL)

    @rule(seed=SEEDS)
    def permute(self, seed):
        rng, problem = np.random.default_rng(seed), self.problem
        n_samples, n_features = problem.features.shape
        samples, classes = rng.permutation(n_samples), rng.permutation(problem.n_way)
        groups = rng.permutation(n_features // problem.group_size)
        columns = (groups[:, None] * problem.group_size + np.arange(problem.group_size)).reshape(-1)
        self.change(
            features=problem.features[samples][:, columns],
            labels=classes[problem.labels[samples]],
            sample_weight=problem.sample_weight[samples],
            group_weight=problem.group_weight[groups],
        )

    @precondition(lambda self: self.earlier)
    @rule(picks=st.lists(SEEDS, min_size=1, max_size=3), dtype=TYPES)
    def solve_in_a_batch(self, picks, dtype):
        """With earlier problems, as far as they share what a batch shares: the bits are those of the task alone."""
        alone = self.problem.solve(getattr(torch, dtype), tol=TOL, on_failure="ignore")
        others = [self.earlier[pick % len(self.earlier)][0] for pick in picks]
        shared = {"group_weight": self.problem.group_weight, "dual_reg": self.problem.dual_reg}
        others = [replace(task, **shared) for task in others if task.lambda2 > 0 or self.problem.dual_reg == 0]
        ways = np.full(len(others) + 1, self.problem.n_way)
        together = solve_together([*others, self.problem], ways, getattr(torch, dtype), {"tol": TOL, "on_failure": "ignore"})
        found = sparsesvm.Solution(*(field[-1] for field in together))
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one, other)
        self.accept(self.problem, found, dtype)
        for task, number in zip(others, range(len(others)), strict=True):
            self.accept(task, sparsesvm.Solution(*(field[number] for field in together)), dtype)

    @rule(dtype=TYPES)
    def walk_a_path(self, dtype):
        """Nothing is in use at its begin; on it the penalised norm grows and the minimum falls."""
        bound = float(sparsesvm.lambda1_max(**self.arguments(), n_way=self.problem.n_way))
        if bound == 0:
            return
        path = self.problem.path(getattr(torch, dtype), n_lambdas=4, min_ratio=0.1, tol=TOL, on_failure="raise")
        assert not path.solution.active[0].any()
        norms, minima = [], []
        for number, lambda1 in enumerate(path.lambda1.tolist()):
            found = sparsesvm.Solution(*(field[number] for field in path.solution))
            self.accept(replace(self.problem, lambda1=lambda1), found, dtype)
            groups = found.weights.double().square().sum(0).reshape(-1, self.problem.group_size).sum(1).sqrt()
            norms.append(float(torch.from_numpy(self.problem.group_weight) @ groups))
            minima.append((float(found.objective), float(found.gap) + TOL * self.problem.sample_weight.sum(), lambda1))
        for (high, slack, larger), (low, other, smaller), norm, next_norm in zip(
            minima, minima[1:], norms, norms[1:], strict=False
        ):
            assert low <= high + slack + other
            assert (larger - smaller) * (norm - next_norm) <= slack + other

    def arguments(self):
        problem = self.problem
        return {
            "features": torch.from_numpy(problem.features),
            "labels": torch.from_numpy(problem.labels),
            "sample_weight": torch.from_numpy(problem.sample_weight),
            "group_size": problem.group_size,
            "group_weight": torch.from_numpy(problem.group_weight),
        }

    @precondition(lambda self: self.earlier)
    @rule(pick=SEEDS)
    def store_and_load(self, pick):
        problem, found = self.earlier[pick % len(self.earlier)]
        stream = io.BytesIO()
        torch.save(found, stream)
        stream.seek(0)
        loaded = torch.load(stream)
        assert isinstance(loaded, sparsesvm.Solution)
        assert all(torch.equal(one, other) for one, other in zip(loaded, found, strict=True))
        self.earlier.append((problem, loaded))

    @precondition(lambda self: self.problem.lambda2 > 0)
    @rule(dtype=TYPES)
    def fit_a_head_and_predict(self, dtype):
        """Without what it does to features it is the solver on samples of weight one."""
        problem = replace(self.problem, sample_weight=np.ones_like(self.problem.sample_weight))
        options = {"group_size": problem.group_size, "group_weight": torch.from_numpy(problem.group_weight), "tol": TOL}
        plain = {"center": False, "normalize": False, "class_weight": None, "scale": 1.0, "on_failure": "raise"}
        head = sparsesvm.SparseSVMHead(
            lambda1=problem.lambda1, lambda2=problem.lambda2, dual_reg=problem.dual_reg, **options, **plain
        )
        support = torch.from_numpy(problem.features).to(getattr(torch, dtype))
        with torch.no_grad():
            fitted = head.fit(support, torch.from_numpy(problem.labels), n_way=problem.n_way)
            logits = fitted(support)
            assert torch.equal(fitted.predict(support), logits.argmax(-1))
        self.accept(problem, head.last_solution, dtype)
        weights = problem.solve(getattr(torch, dtype), tol=TOL, on_failure="raise").weights
        torch.testing.assert_close(fitted.weights, weights)
        torch.testing.assert_close(logits, sparsesvm.decision_function(support, weights), rtol=1e-4, atol=1e-5)


OneProblem.TestCase.settings = settings(
    max_examples=30, stateful_step_count=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestOneProblem = OneProblem.TestCase
