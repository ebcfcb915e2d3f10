"""The experiments on representations run at a smoke size, resume, choose on validation error and say so."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import generalization, identifiability, matching_picture, regression_time, representation, violations
from benchmarks.representation import Cell, choose, run, summarise
from sparsesvm.bilevel import lambda_max


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few samples for scores and validation; torch's threads put back."""
    for name, value in (("SCORED_SAMPLES", 300), ("ICA_SAMPLES", 500), ("VALIDATION_TASKS", 5)):
        monkeypatch.setattr(representation, name, value)
    monkeypatch.setattr(matching_picture, "SCORED_SAMPLES", 300)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_generalization(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(generalization, "SHARES", (0.05,))
    output = tmp_path / "generalization.json"
    generalization.main(["--seeds", "2", "--samples", "50", "--output", str(output)])
    content = json.loads(output.read_text())
    score = {(line["representation"], line["model"]): line["score"] for line in content["summary"]}
    assert score["disentangled", "lasso"] > score["entangled", "lasso"] + 0.4
    assert score["disentangled", "ridge"] == pytest.approx(score["entangled", "ridge"], abs=1e-6)
    gain = {line["model"]: line["advantage"] for line in content["advantages"]}
    assert gain["lasso"] == pytest.approx(score["disentangled", "lasso"] - score["entangled", "lasso"])
    assert gain["ridge"] == pytest.approx(0, abs=1e-6)
    assert "cross-validation" in content["choice"]
    assert {line["published"] for line in content["summary"]} == {0.921, 0.033, 0.406}
    assert "written" in capsys.readouterr().out
    assert output.with_suffix(".svg").exists()


def test_classification_has_the_same_curves():
    rows = generalization.classification(0.05, 50, 0)
    assert [(row["representation"], row["model"]) for row in rows] == [
        ("disentangled", "sparse SVM"),
        ("disentangled", "SVM"),
        ("entangled", "sparse SVM"),
        ("entangled", "SVM"),
    ]
    assert rows[1]["score"] == pytest.approx(rows[3]["score"], abs=0.01)
    assert rows[0]["score"] > rows[2]["score"]


def test_cross_validation_takes_the_best_penalty(generator):
    features = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    targets = features[:, 0] + 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    good, bad = 0.05, 0.99
    grid = torch.tensor([bad, good], dtype=torch.float64) * lambda_max(features, targets)
    chosen = generalization.cross_validated(features, targets, generalization.fit_lasso, grid)
    expected = generalization.fit_lasso(features.unsqueeze(0), targets.unsqueeze(0), grid[1:])
    assert torch.equal(chosen, expected)


def test_identifiability_merges_runs(tmp_path, capsys):
    flags = ["--steps", "2", "--seeds", "0", "--rho", "0", "--output", str(tmp_path / "id.json")]
    identifiability.main([*flags, "--learners", "inner Lasso", "--penalties", "0.1"])
    identifiability.main([*flags, "--learners", "inner Lasso", "inner ridge"])
    content = json.loads((tmp_path / "id.json").read_text())
    assert [(row["learner"], row["penalty"]) for row in content["rows"]] == [
        *(("inner Lasso", penalty) for penalty in (0.1, 0.03, 0.3)),
        *((learner, penalty) for penalty in (1e-7, 0.01) for learner in ("inner ridge", "inner ridge + ICA")),
    ]
    assert "validation error" in content["choice"]
    assert all(0 <= row["mcc"] <= row["r"] <= 1 for row in content["rows"])
    assert "inner ridge + ICA" in capsys.readouterr().out
    assert (tmp_path / "id.svg").exists()


def test_violations_say_what_the_checker_says(tmp_path):
    flags = ["--steps", "2", "--seeds", "0", "--penalties", "0.1", "--rho", "0.5", "--output", str(tmp_path / "v.json")]
    violations.main([*flags, "--laws", "sparse", "blocks of 2", "one vector per support"])
    found = {line["law"]: line for line in json.loads((tmp_path / "v.json").read_text())["summary"]}
    assert found["sparse"]["checker"] == found["one vector per support"]["checker"] == "sufficient support variability holds"
    assert "no task uses factor 1 without factor 0" in found["blocks of 2"]["checker"]
    assert found["sparse"]["mcc_change"] == 0


def test_scenes_and_the_sparse_svm_run():
    for data, learner in (("scenes", "inner Lasso"), ("mlp", "sparse SVM")):
        (row,) = run(Cell(data, 0.5, "sparse", learner, 0.3, 0, 2))
        assert all(math.isfinite(row[name]) for name in ("mcc", "r", "validation", "sparsity"))


def test_matching_picture(tmp_path):
    output = tmp_path / "matching.json"
    matching_picture.main(["--data", "mlp", "--steps", "2", "--output", str(output)])
    models = json.loads(output.read_text())["models"]
    for result in models.values():
        assert sum(row[number] for number, row in enumerate(result["correlations"])) / 6 == pytest.approx(result["mcc"])
    assert output.with_suffix(".svg").exists()


def test_the_choice_is_made_on_the_validation_error():
    rows = [
        {"learner": "a", "seed": seed, "penalty": penalty, "validation": validation, "mcc": mcc}
        for seed, penalty, validation, mcc in ((0, 1, 0.2, 0.9), (0, 2, 0.1, 0.5), (1, 1, 0.1, 0.7), (1, 2, 0.3, 1.0))
    ]
    assert [row["mcc"] for row in choose(rows, ("learner", "seed"))] == [0.5, 0.7]
    (line,) = summarise(rows, ("learner",), ("mcc",))
    assert line["mcc"] == pytest.approx(0.6)
    assert line["mcc_error"] == pytest.approx(0.1)
    assert line["penalties"] == [1, 2]


def test_the_formula_for_the_peers_is_ours(generator):
    features, targets = regression_time.problems(6)
    x, y = features[0].clone().requires_grad_(), targets[0].clone().requires_grad_()
    weights = regression_time.sparse_regression(x, y, lambda_ratio=0.1).weights
    weights.square().sum().backward()
    numbers = weights.detach().numpy()
    found = regression_time.gradient(features[0].numpy(), targets[0].numpy(), numbers, 2 * numbers)
    torch.testing.assert_close(torch.from_numpy(found[0]), x.grad, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(torch.from_numpy(found[1]), y.grad, atol=1e-10, rtol=1e-8)
    alpha = float(0.1 * lambda_max(features[0], targets[0]))
    assert regression_time.relative_gap(features[0].numpy(), targets[0].numpy(), numbers, alpha) < 1e-10
    coefficients = regression_time.library("scikit-learn", alpha).fit(features[0].numpy(), targets[0].numpy()).coef_
    assert regression_time.relative_gap(features[0].numpy(), targets[0].numpy(), coefficients, alpha) < regression_time.GAP
