"""`sparsesvm probe` finds planted features, says what chance would do, and writes what it found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import sparsesvm.cli
from sparsesvm.sklearn import probe


def planted(rng, n=150, m=30, k=3):
    """Classes that the first three features decide."""
    features, classes = rng.normal(size=(n, m)), np.arange(n) % k
    features[np.arange(n), classes] += 4
    return features, np.array(["red", "green", "blue"])[classes]


def test_it_finds_planted_features_and_its_controls_do_not(rng):
    features, labels = planted(rng)
    found = probe.probe(features, labels, n_lambdas=8, cv=3)
    used = [int(feature["name"]) for feature in found["features"]]
    assert {0, 1, 2} <= set(used)
    accuracy = found["accuracy"]
    assert accuracy["probe"] > 0.9
    assert accuracy["probe of shuffled labels"] < 0.6
    assert len(found["path"]["score"]) == len(found["path"]["features"]) == 8
    assert found["versions"]["sparsesvm"] == sparsesvm.__version__


@pytest.mark.parametrize("suffix", ["npz", "pt", "csv"])
def test_the_command_reads_what_people_have_and_writes_table_page_and_figure(rng, tmp_path, capsys, suffix):
    features, labels = planted(rng)
    file, names = tmp_path / f"features.{suffix}", [f"unit {j}" for j in range(30)]
    if suffix == "npz":
        np.savez(file, features=features, labels=labels, names=names)
    elif suffix == "pt":
        torch.save({"features": torch.from_numpy(features), "labels": labels.tolist(), "names": names}, file)
    else:
        pandas = pytest.importorskip("pandas", reason="tables are read by pandas")
        pandas.DataFrame(features, columns=names).assign(label=labels).to_csv(file, index=False)
    output = tmp_path / "out"
    sparsesvm.cli.main(["probe", str(file), "--output", str(output), "--n-lambdas", "5", "--cv", "3"])
    assert "as many random features" in capsys.readouterr().out
    found = json.loads((output / "probe.json").read_text())
    assert found["features"][0]["name"].startswith("unit ")
    assert (output / "probe.png").stat().st_size > 10_000
    assert "unit 0" in (output / "probe.md").read_text()


def test_files_that_hold_something_else_are_refused(tmp_path):
    file = tmp_path / "other.npz"
    np.savez(file, weights=np.ones(3))
    with pytest.raises(SystemExit, match="must hold the arrays features, labels; it lacks features, labels and has weights"):
        sparsesvm.cli.main(["probe", str(file)])
    torch.save({"features": np.ones((4, 2)), "labels": [0, 1, 0, 1]}, tmp_path / "other.pt")
    with pytest.raises(SystemExit, match="holds more than tensors and plain values"):
        sparsesvm.cli.main(["probe", str(tmp_path / "other.pt")])
    pandas = pytest.importorskip("pandas", reason="tables are read by pandas")
    pandas.DataFrame({"a": [0.0, 1.0], "label": ["cat", None]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(SystemExit, match="labels must be integers or names; got object"):
        sparsesvm.cli.main(["probe", str(tmp_path / "other.csv")])
    with pytest.raises(SystemExit, match="must end in"):
        sparsesvm.cli.main(["probe", str(tmp_path / "other.txt")])
