"""The same bits: in every run, process, number of threads and batch, whatever the memory held before, at each instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsesvm
from sparsesvm.bilevel import sparse_regression

# Penalties that take the different ways through the solver.
KINDS = {
    "exact": {"lambda1": 2.0, "lambda2": 0.5},
    "weakly ridged": {"lambda1": 0.5, "lambda2": 1e-6},
    "without ridge": {"lambda1": 1.0, "lambda2": 0.0},
    "without group penalty": {"lambda1": 0.0, "lambda2": 0.5},
    "smoothed, in groups": {"lambda1": 1.0, "lambda2": 0.5, "dual_reg": 1.0, "group_size": 4},
}
N_TASKS = 6


def make_batch(dtype=torch.float32, n=30, m=80):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N_TASKS, n, m, generator=generator, dtype=dtype)
    features[:, 1] = features[:, 0]  # a degenerate pair
    return features, torch.stack([torch.randperm(n, generator=generator) % 4 for _ in range(N_TASKS)])


def outputs(features, labels, **options):
    """All fields of the solution, and the gradient where there is one."""
    features = features.clone().requires_grad_(options["lambda2"] > 0)
    found = sparsesvm.solve(features, labels, n_way=4, **options, on_failure="ignore")
    if options["lambda2"] > 0:
        (gradient,) = torch.autograd.grad((found.weights * torch.arange(1, 5)[:, None]).sum(), features)
        return (*(field.detach() for field in found), gradient)
    return tuple(found)


def everything():
    """Of all kinds and a regression, as bytes."""
    tensors = []
    for dtype in (torch.float32, torch.float64):
        features, labels = make_batch(dtype)
        for options in KINDS.values():
            tensors += outputs(features, labels, **options)
        tensors += sparse_regression(features, features[..., :2] + 1, lambda1=0.1, lambda2=0.01)
    large, labels = make_batch(n=600, m=100)
    tensors += sparsesvm.solve(large[0], labels[0], lambda1=20.0, lambda2=0.1)  # all threads inside one task
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_rest_of_the_batch_nor_its_order_matters(kind):
    features, labels = make_batch()
    together = outputs(features, labels, **KINDS[kind])
    order = [3, 0, 5, 1]
    assert same([field[order] for field in together], outputs(features[order], labels[order], **KINDS[kind]))
    for task in range(N_TASKS):
        assert same([field[task] for field in together], outputs(features[task], labels[task], **KINDS[kind]))


def test_what_memory_held_before_does_not_matter():
    """With this setting torch fills what it allocates with NaN and the largest integers."""
    expected = everything()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert everything() == expected
    finally:
        torch.use_deterministic_algorithms(False)


PROGRAM = """
import hashlib, sys, torch
sys.path.insert(0, sys.argv[1])
import test_determinism
for n_threads in (1, 2, 3):
    torch.set_num_threads(n_threads)
    print(hashlib.sha256(test_determinism.everything()).hexdigest())
"""


def levels():
    cpu = sparsesvm.backends()["cpu"]
    return cpu["built"][: cpu["built"].index(cpu["simd"]) + 1]


@pytest.mark.parametrize("level", levels())
def test_neither_threads_nor_a_new_process_matter(level):
    def run():
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
        environment = {**os.environ, "SPARSESVM_SIMD": level}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    found = run() + run()
    assert len(found) == 6
    assert len(set(found)) == 1
