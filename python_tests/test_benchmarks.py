"""The benchmarks run at a smoke size; peers that are not installed are reported, and none is needed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsesvm
from benchmarks import bars, encoder, gpu_check, gradient_accuracy, peers_time, random_problems, report, step_share
from benchmarks.certificate import certify
from benchmarks.contest import Search
from benchmarks.faults import FAULTS
from benchmarks.peers import PEERS
from benchmarks.peers.base import Peer
from benchmarks.peers.first_order import project
from benchmarks.problems import Problem, episode
from benchmarks.tasks import Answer, exact, gradient_error, make_tasks, penalty_for, relative_gap
from sparsesvm import reference
from sparsesvm.meta import command, load

OWN = ("authors", "fista", "fista-gram")


class Absent(Peer):
    name = "absent"
    about = "a library that nobody has"
    modules = ("no_such_module",)

    def prepare(self, tasks):
        raise AssertionError("what is absent is not run")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[(0.0, 1), (0.3, 1), (0.6, 4)], ids=["dense", "sparse", "groups"])
def tasks(request):
    lambda1, group_size = request.param
    batch = make_tasks(3, 6, 24, n_tasks=2, dtype=torch.float64, lambda2=1.0, group_size=group_size)
    return replace(batch, lambda1=lambda1)


def test_penalty_has_the_wanted_share(tasks):
    penalty = penalty_for(0.5, tasks)
    assert exact(replace(tasks, lambda1=penalty)).active == pytest.approx(0.5, abs=0.2)  # of few groups


@pytest.mark.parametrize("name", OWN)
def test_first_order_peers_converge_to_our_solution(name, tasks):
    if PEERS[name].refusal(tasks):
        assert tasks.lambda1 > 0
        return
    solution = exact(tasks)
    answer = PEERS[name].prepare(tasks)(3000)
    assert relative_gap(tasks, answer, solution.minimum) < 1e-6


def test_published_gradient_is_exact_with_enough_steps_and_no_ridge(tasks, monkeypatch):
    """So that its error at the shipped setting is the method's, not the adapter's."""
    peer = PEERS["authors"]
    solution = exact(tasks)
    differentiate = peer.prepare_gradient(tasks, solution.cotangent)
    assert gradient_error(differentiate(500), solution.gradient) > 1e-3
    monkeypatch.setattr(peer, "cg_steps", 100)
    monkeypatch.setattr(type(peer), "ridge", 1e-12)
    assert gradient_error(differentiate(500), solution.gradient) < 1e-4


def test_gap_judges_weights_alone_and_with_a_dual(tasks):
    solution = exact(tasks)
    zero = Answer(torch.zeros(2, 3, 24))
    problem = reference.make_problem(tasks.features, tasks.labels, **tasks.penalties)
    assert relative_gap(tasks, zero, solution.minimum) == pytest.approx(float((1 - solution.minimum / 6).max()))
    uniform = torch.full((2, 6, 3), 1 / 3)
    with_dual = relative_gap(tasks, Answer(zero.weights, uniform), solution.minimum)
    assert with_dual == pytest.approx(float((1 - problem.dual_objective(uniform.double()) / 6).max()))


def test_projection_matches_the_reference(generator):
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(project(x), reference.project_simplex(x))


def test_search_finds_the_smallest_number_of_steps(tasks):
    search = Search(PEERS["fista"], tasks, exact(tasks), limit_s=10.0)
    (row,) = search.rows((1e-4,), with_gradient=False)
    assert row["reached"]
    assert row["gap"] <= 1e-4
    fewer = search.solve(int(row["setting"] / 1.3))
    assert row["setting"] == 5 or relative_gap(tasks, fewer, search.exact.minimum) > 1e-4


def test_comparison_reports_the_absent_and_keeps_earlier_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PEERS, "absent", Absent())
    output = tmp_path / "peers.json"
    row = {"size": [3, 6, 40], "group_size": 1, "tasks": 1, "threads": 1, "dtype": "float64", "peer": "sparsesvm", "active": 1.0}
    note = {"target": 1e-6, "note": "earlier"}
    report.write(output, {"rows": [{**row, **note, "share": 1.0}, {**row, **note, "share": 0.05}]})
    flags = ["--smoke", "--sizes", "3x6x40", "--shares", "1", "--dtypes", "float64", "--time-limit", "0.05"]
    peers_time.main([*flags, "--peers", "sparsesvm", "absent", "--output", str(output)])
    assert "absent: absent (no module no_such_module)" in capsys.readouterr().out
    content = json.loads(output.read_text())
    found = {(row["share"], row["target"]): row for row in content["rows"]}
    assert set(found) == {(1.0, 1e-3), (1.0, 1e-6), (0.05, 1e-6)}
    assert found.pop((0.05, 1e-6))["note"] == "earlier"
    assert all(row["gap"] <= row["target"] and row["forward_ms"] > 0 for row in found.values())
    assert {"versions", "hardware"} <= set(content)
    assert "absent here: no module no_such_module" in output.with_suffix(".md").read_text()


def test_comparison_of_nothing_is_an_error():
    with pytest.raises(SystemExit, match="--full"):
        peers_time.main(["--tasks", "64"])


def test_step_share(tmp_path, capsys):
    step_share.main(["--smoke", "--threads", "1", "--output", str(tmp_path / "step.json")])
    rows = report.read(tmp_path / "step.json")
    assert {"sparse SVM", "SVM, lambda1 = 0", "ridge", "prototypes"} <= {row["head"] for row in rows}
    assert all(row["head_ms"] > 0 for row in rows)


def test_lost_ratios_are_named():
    cell = {"size": [5, 25, 1600], "group_size": 1, "share": 0.25, "tasks": 8, "threads": 1, "dtype": "float32", "target": 1e-6}
    ours = {**cell, "peer": "sparsesvm", "reached": True, "forward_ms": 1.0}
    slow = {**cell, "peer": "authors", "reached": False, "limited": True, "tried_ms": 3000.0}
    fast = {**cell, "peer": "fista", "reached": True, "forward_ms": 1.5}
    assert bars.check_peers([ours, slow], peers_time.CELL) == []
    (complaint,) = bars.check_peers([ours, slow, fast], peers_time.CELL)
    assert "1.50 (fista)" in complaint
    with pytest.raises(SystemExit):
        bars.verdict([complaint], check=True)


def test_the_certificate_refuses_false_claims(rng):
    features, labels = episode(rng, 3, 12, 20)
    for lambda2, dual_reg in ((0.1, 0.0), (0.1, 0.05), (0.0, 0.0)):
        problem = Problem(features, labels, 3, 0.5, lambda2, rng.uniform(0.5, 2, 12), 2, dual_reg)
        options = {"lambda1": 0.5, "lambda2": lambda2, "n_way": 3, "group_size": 2, "dual_reg": dual_reg, "tol": 1e-9}
        weight = torch.from_numpy(problem.sample_weight)
        found = sparsesvm.solve(torch.from_numpy(features), torch.from_numpy(labels), sample_weight=weight, **options)
        weights, dual = found.weights.numpy(), found.dual.numpy()
        answer = certify(problem, weights, dual)
        assert answer.confirms(1e-9) and answer.dual <= answer.primal + answer.rounding
        if dual_reg == 0:
            assert answer.total == pytest.approx(certify(problem, 0 * weights, dual).primal)
        assert not certify(problem, 1.01 * weights, dual).confirms(1e-9)
        assert not certify(problem, weights, 0.99 * dual + 0.01 / 3).confirms(1e-9)


def test_random_problems(tmp_path):
    random_problems.main(["--problems", "12", "--workers", "1", "--output", str(tmp_path / "random.json")])
    rows = {row["dtype"]: row for row in report.read(tmp_path / "random.json") if row[random_problems.COLUMNS[1]] == "all"}
    assert set(rows) == {"float32", "float64"}
    assert all((row["problems"], row["converged"], row["false"]) == (12, 12, 0) for row in rows.values())


def test_random_problems_with_all_options(tmp_path):
    arguments = ["--all-options", "--problems", "60", "--workers", "1", "--output", str(tmp_path / "random.json")]
    random_problems.main(arguments)
    rows = report.read(tmp_path / "random.json")
    forms = {"alone", "from a start", "sparse rows", "batch", "path"}
    assert {(row["form"], row["dtype"]) for row in rows[:-1]} == {
        (form, dtype) for form in forms for dtype in random_problems.TOLERANCES
    }
    assert (rows[-1]["problems"], rows[-1]["unconverged"], rows[-1]["false"]) == (60, 0, 0)
    assert rows[-1]["stopped early"] > 0


def test_false_claims_of_answers_are_named(rng):
    features, labels = episode(rng, 3, 12, 20)
    problem = Problem(features, labels, 3, 0.5, 0.1, np.ones(12))
    found = problem.solve(tol=1e-6)

    def false(**claims):
        return random_problems.checked(problem, found._replace(**claims), "float64", 1e-6)["false"]

    assert false() == []
    assert "status" in false(weights=1.01 * found.weights)
    assert false(status=torch.tensor(int(sparsesvm.StatusCode.NON_FINITE))) == ["numbers"]
    rough = problem.solve(tol=1e-6, max_iter=1, on_failure="ignore")
    assert rough.status == sparsesvm.StatusCode.MAX_ITER
    assert random_problems.checked(problem, rough, "float64", 1e-6)["false"] == []
    assert random_problems.checked(problem, rough._replace(gap=rough.gap / 2), "float64", 1e-6)["false"] == ["gap"]
    assert false(objective=found.objective + 1e-4) == ["objective"]
    assert false(active=~found.active) == ["active"]


def test_field(tmp_path):
    from benchmarks import field

    field.main(["--smoke", "--output", str(tmp_path / "field.json")])
    rows = report.read(tmp_path / "field.json")
    assert all("seconds" in row for row in rows if row["solver"] != "adelie")
    assert {"LinearSVC", "saga", "ours, exact hinge"} <= {row["solver"] for row in rows}
    powers = [{"task": "features", "solver": "ours, exact hinge", "size": [1, m, 2], "seconds": m**1.5} for m in (10, 20, 40)]
    assert field.exponents(powers)[0]["exponent"] == pytest.approx(1.5)


def test_sizes(tmp_path):
    pytest.importorskip("sklearn", reason="the data come with scikit-learn")
    from benchmarks import sizes

    sizes.main(["--largest", "0", "--output", str(tmp_path / "sizes.json")])
    rows = report.read(tmp_path / "sizes.json")
    assert len(rows) == 6 and all(row["converged"] and row["seconds"] > 0 for row in rows)
    assert "more than 2 s" in bars.check_sizes([{**rows[0], "seconds": 2.1}])[0]
    row = {**rows[0], "data": "make_classification", "seconds": 0.6}
    (slow,) = bars.check_sizes([{**row, "prototype s": 1.0}])
    assert "more than 0.5 s" in slow
    assert not bars.check_sizes([row])


def test_sparse_rows_of_the_sizes_benchmark():
    pytest.importorskip("sklearn", reason="other data of this benchmark come with scikit-learn")
    from benchmarks import sizes

    row = sizes.measure("sparse rows", *sizes.planted_rows(600, 2000, 3), 0.5)
    assert row["converged"] and 0 < row["active"] <= 90


def test_share_of_a_training_step(tmp_path):
    pytest.importorskip("lightning", reason="the training step needs sparsesvm[meta]")
    from benchmarks import meta_step

    meta_step.main(["--filters", "8", "--steps", "1", "--threads", "1", "--output", str(tmp_path / "step.json")])
    (row,) = report.read(tmp_path / "step.json")
    assert 0 < row["solver_ms"] < row["head_ms"] < row["step_ms"]
    assert bars.check_meta_step([row]) == []
    assert "26.0%" in bars.check_meta_step([{**row, "features": 6912, "share": 0.26}])[0]


def test_gradient_accuracy(tmp_path, capsys):
    output = tmp_path / "gradient_accuracy.json"
    gradient_accuracy.main(["--smoke", "--problems", "40", "--repetitions", "1", "--output", str(output)])
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 80
    assert "extra time" in capsys.readouterr().out
    for row in rows:
        # The bar is one for the 99th percentile.
        assert row["kink"] or row["status"] == "NOT_IDENTIFIED" or row["error"] < (1e-3 if row["dtype"] == "float32" else 1e-5)


def test_cross_validation(tmp_path):
    pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")
    from benchmarks import cross_validation

    output = tmp_path / "cross_validation.json"
    cross_validation.main(["--samples", "120", "--folds", "3", "--penalties", "4", "--output", str(output)])
    (row,) = report.read(output)
    assert row["ratio of the CV"] == row["ratio of single fits"]


def test_raw_tables(tmp_path):
    pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")
    from benchmarks import raw_tables

    raw_tables.main(["--data", "iris", "--repeats", "1", "--output", str(tmp_path / "raw.json")])
    rows = report.read(tmp_path / "raw.json")
    assert len(rows) == len(raw_tables.ESTIMATORS)
    assert rows[0]["accuracy %"] > 95
    assert rows[0]["to dense, points"] == 0


@pytest.mark.parametrize("compressed", [False, True])
def test_probes_find_what_is_planted(compressed):
    pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")
    from benchmarks import probe

    X, y = probe.draw(300, 200, 3, compressed, 0)
    *_, (coef, intercept) = probe.ours(X, y)
    used = np.flatnonzero(coef.any(0))
    assert (used < 3 * probe.PLANTED).sum() >= 15
    assert ((X @ coef.T + intercept).argmax(1) == y).mean() > 0.8


def test_the_check_on_a_device_keeps_what_it_found(tmp_path):
    """Steps that fail or run out of time, each written at once, with what they printed."""
    output = tmp_path / "new" / "check.json"
    checks = gpu_check.Checks(60.0, output)
    assert checks.run("right", [sys.executable, "-c", "print('found')"], limit=30)
    assert not checks.run("slow", [sys.executable, "-c", "import time; print('begun'); time.sleep(60)"], limit=5)
    checks.end = 0.0
    assert not checks.run("late", [sys.executable, "-c", ""], limit=30)
    checks.add("absent", None, 0.0, "nothing to run")
    written = json.loads(output.read_text())
    assert written["failed"] == ["slow", "late"]
    assert [step["output"] for step in written["steps"][:2]] == ["found\n", "begun\n\nran out of time"]


def test_the_encoder_of_a_release_loads_and_carries_its_licences_and_checksums(tmp_path, monkeypatch):
    alphabets = ["Greek", "Tagalog", "Sanskrit"]
    characters = np.repeat(np.arange(72), 20)
    np.savez(
        tmp_path / "omniglot.npz",
        images28=np.random.default_rng(0).integers(0, 256, (72, 1, 28, 28), dtype=np.uint8).repeat(20, 1).reshape(-1, 28, 28),
        character=characters,
        alphabet=characters // 24,
        character_names=[f"{alphabets[number // 24]}/{number}" for number in range(72)],
        alphabet_names=alphabets,
        alphabet_split=np.arange(3),
    )
    small = ["--data.episodes_per_epoch=1", "--data.val_episodes=1", "--model.encoder.init_args.widths=[8, 8, 8, 8, 8, 8]"]
    small += ["--trainer.precision=32-true"]
    monkeypatch.setattr(encoder.subprocess, "run", lambda line, check: command.run([*line[3:], *small]))
    monkeypatch.setenv("SPARSESVM_OMNIGLOT", str(tmp_path / "omniglot.npz"))
    flags = ["--episodes", "2", "--run", str(tmp_path / "run"), "--output", str(tmp_path / "dist")]
    encoder.main(["--epochs", "1", *flags])
    monkeypatch.setattr(encoder.subprocess, "run", None)  # a complete run is not repeated
    encoder.main(["--epochs", "1", *flags])
    shutil.unpack_archive(tmp_path / "dist" / "omniglot-small.tar.gz", tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "omniglot-small"
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("LICENSE", "LICENSE-omniglot.txt", "README.md", "config.yaml", "model.safetensors")
    }
    assert "Copyright (c) 2015 Brenden Lake" in (folder / "LICENSE-omniglot.txt").read_text()
    card = (folder / "README.md").read_text()
    assert "| sparse SVM |" in card and "200 episodes" in card
    assert str(tmp_path) not in card + (folder / "config.yaml").read_text()
    assert load(folder).embed(np.zeros((1, 105, 105), np.uint8)).shape == (1, 72)


def test_every_planted_fault_is_one_of_the_code_and_is_caught():
    """`python -m benchmarks.mutations` plants and tests them anew."""
    repository = Path(__file__).resolve().parents[1]
    rows = {(row["file"], row["fault"]): row for row in report.read(report.FOLDER / "mutations.json")}
    assert len(FAULTS) == len(rows) >= 30
    for fault in FAULTS:
        assert (repository / fault.file).read_text().count(fault.old) == 1, f"{fault.file} changed: {fault.old}"
        row = rows[fault.file, fault.what]
        assert (row["old"], row["new"]) == (fault.old, fault.new) and fault.old != fault.new
        file, name = re.fullmatch(r"(\S+?)::(\w+)(?:\[.*)?", row["caught_by"]).groups()
        assert f"def {name}(" in (repository / file).read_text(), f"{fault.what}: {file} no longer has {name}"
