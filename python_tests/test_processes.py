"""Ctrl-C ends a long call soon, with KeyboardInterrupt, and breaks nothing in other threads; memory that runs out is an
error. What follows is right."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time

import pytest
import torch
from emulation import FLAGS, SOURCES, compiler

import sparsesvm
from sparsesvm.bilevel import sparse_regression

LIMIT = 2.0  # ten times what is promised, as others may be at work on the machine; a call that does not listen takes longer

SETUP = """
import sys, threading, time, torch, sparsesvm
from sparsesvm.bilevel import sparse_regression

torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)

def task(*shape):
    features = torch.randn(*shape, generator=generator)
    return features, (torch.arange(shape[-2]) % 5).expand(shape[:-1]).contiguous()

def is_right():
    support = task(25, 100)
    found = sparsesvm.solve(*support, lambda1=1.0, lambda2=0.1)
    return float(sparsesvm.duality_gap(*support, found.weights, dual=found.dual, lambda1=1.0, lambda2=0.1)) <= 25e-5

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
"""

CALLS = {
    "one task": ("task(3000, 3000)", "sparsesvm.solve(*data, lambda1_ratio=0.02, lambda2=0.1, on_failure='ignore')"),
    "one task without group penalty": ("task(3000, 1500)", "sparsesvm.solve(*data, lambda1=0, lambda2=1e-4)"),
    "a batch": ("task(4000, 75, 1600)", "sparsesvm.solve(*data, lambda1_ratio=0.02, lambda2=0.1)"),
    "a batch whose first task is easy": (
        "task(2, 3000, 3000)",
        "sparsesvm.solve(*data, lambda1=torch.tensor([1e6, 40.0]), lambda2=0.1)",
    ),
    "a path": ("task(2000, 2000)", "sparsesvm.regularization_path(*data, lambda2=0.1)"),
    "the largest penalty": ("task(6000, 8000)", "sparsesvm.lambda1_max(*data, exact=True)"),
    "a regression": (
        "(torch.randn(1500, 6000, generator=generator), torch.randn(1500, 1, generator=generator))",
        "sparse_regression(*data, lambda1=1e-4, lambda2=0.0, tol=1e-13, max_iter=100000)",
    ),
    "a gradient": (
        "[t := task(40, 200, 200), t[0].requires_grad_()] and t\n"
        "weights = sparsesvm.solve(*data, lambda1_ratio=0.05, lambda2=1.0).weights",
        "for _ in range(100000): torch.autograd.grad(weights.sum(), data[0], retain_graph=True)",
    ),
}


def run(script: str) -> list[str]:
    """The words that the script prints after "begins", half a second after which it gets SIGINT."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begins\n", process.stderr.read()
        time.sleep(0.5)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    end, *words = printed.split()
    assert float(end) - begin < LIMIT
    return words


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_call_soon_frees_its_memory_and_the_next_one_is_right(name):
    data, call = CALLS[name]
    script = f"""
data = {data}
before = resident()
print("begins", flush=True)
try:
    {call}
    sys.exit("the call is too short for this test")
except KeyboardInterrupt:
    print(time.monotonic())
print(resident() - before < 5e7, is_right())
"""
    assert run(SETUP + script) == ["True", "True"]


def sparse_rows(generator, n_samples, n_features, per_row):
    width = n_features // per_row
    column = torch.arange(per_row) * width + torch.randint(width, (n_samples, per_row), generator=generator)
    start, values = torch.arange(n_samples + 1) * per_row, torch.randn(n_samples * per_row, generator=generator)
    features = torch.sparse_csr_tensor(start, column.flatten(), values, (n_samples, n_features), check_invariants=False)
    return features, torch.arange(n_samples) % 5


def regression(generator, n_samples, n_features):
    return torch.randn(n_samples, n_features, generator=generator), torch.randn(n_samples, 1, generator=generator)


@pytest.mark.parametrize(
    ("make", "sizes", "call", "options"),
    [
        (sparse_rows, (6000, 20000, 200), sparsesvm.solve, {"lambda1_ratio": 0.3, "lambda2": 0.1}),
        (regression, (2000, 20000), sparse_regression, {"lambda1": 0.1, "lambda2": 0.0}),
        (regression, (20000, 2000), sparse_regression, {"lambda1": 0.01, "lambda2": 0.0}),
    ],
    ids=["sparse rows", "wide regression", "long regression"],
)
def test_handlers_run_every_fifth_of_a_second_of_processor_time(make, sizes, call, options):
    """Of what a call does before its first iteration as well; others at work on the machine change nothing here."""
    data = make(torch.Generator().manual_seed(0), *sizes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    at = [time.process_time()]
    before = signal.signal(signal.SIGPROF, lambda *_: at.append(time.process_time()))
    signal.setitimer(signal.ITIMER_PROF, 0.005, 0.005)
    try:
        call(*data, **options, max_iter=1, on_failure="ignore")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        torch.set_num_threads(threads)
    at.append(time.process_time())
    assert at[-1] - at[0] > 0.2, "the call is too short for this test"
    assert max(end - begin for begin, end in itertools.pairwise(at)) < 0.2


def test_a_handler_that_does_not_raise_runs_at_once_and_the_call_goes_on():
    script = """
import signal
signal.signal(signal.SIGINT, lambda *_: print(time.monotonic(), flush=True))
data = task(500, 75, 400)
print("begins", flush=True)
found = sparsesvm.solve(*data, lambda1_ratio=0.02, lambda2=0.1)
print(bool((found.status == 0).all()), is_right())
"""
    assert run(SETUP + script) == ["True", "True"]


def test_ctrl_c_leaves_calls_of_other_threads_alone():
    script = """
data, found, ended = task(500, 75, 400), [], threading.Event()

def work():
    found.append(sparsesvm.solve(*data, lambda1_ratio=0.02, lambda2=0.1))
    ended.set()

threading.Thread(target=work).start()
print("begins", flush=True)
try:
    ended.wait()
    sys.exit("the call is too short for this test")
except KeyboardInterrupt:
    print(time.monotonic())
ended.wait()
print(bool((found[0].status == 0).all()), is_right())
"""
    assert run(SETUP + script) == ["True", "True"]


def test_where_memory_runs_out_there_is_an_error_and_the_next_call_is_right():
    script = """
import resource
data = task(3000, 3000)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
try:
    sparsesvm.solve(*data, lambda1=1.0, lambda2=0.1)
    sys.exit("there was enough memory")
except (RuntimeError, MemoryError) as error:
    print("memory" in str(error))
print(is_right())
"""
    done = subprocess.run([sys.executable, "-c", SETUP + script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr


def test_calls_of_several_threads_do_not_race(tmp_path):
    """The driver under ThreadSanitizer, batches and single tasks, some of them interrupted; and that it finds a planted race."""
    program = tmp_path / "driver_check"
    names = ("cpu/driver", "cpu/kernels", "cpu/regression_driver", "cpu/regression_kernels", "cpu/parallel", "cpu/interrupt")
    sources = [str(SOURCES / f"{name}.cpp") for name in (*names, "tests/driver_check")]
    flags = [*FLAGS, "-O1", "-g", "-fopenmp-simd", "-DSPARSESVM_NO_POOL", "-pthread", "-fsanitize=thread"]
    subprocess.run([*compiler(), *flags, *sources, "-ldl", "-o", str(program)], check=True)
    run = subprocess.run([str(program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WARNING" not in run.stderr
    planted = subprocess.run([str(program), "planted"], capture_output=True, text=True)
    assert planted.returncode and "data race" in planted.stderr
