"""The demo runs, writes what it says and names a missing dependency."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sparsesvm import cli


def test_a_short_demo_writes_its_table_and_picture(tmp_path, capsys):
    cli.main(["demo", "--output", str(tmp_path / "out"), "--steps", "2", "--episodes", "4"])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["heads"]) == {"sparse SVM", "SVM", "ridge", "prototype"}
    for name, found in results["heads"].items():
        assert name in printed
        assert 0 <= found["5-shot"]["accuracy"] <= 100
        assert 0 < found["head_time_share"] < 1
    sparse = results["heads"]["sparse SVM"]["5-shot"]
    assert sparse["features_used"] < results["heads"]["ridge"]["5-shot"]["features_used"]
    assert sparse["largest_gap"] <= 1e-6
    assert results["versions"]["torch"]
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_dependency_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "sparsesvm.demo", raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'sparsesvm\[demo\]'"):
        cli.main(["demo"])


def test_the_command_needs_a_subcommand_and_sound_numbers(capsys):
    for arguments in ([], ["demo", "--steps", "0"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
    assert "at least 1" in capsys.readouterr().err


def test_python_dash_m_prints_the_version():
    done = subprocess.run([sys.executable, "-m", "sparsesvm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sparsesvm ")


def test_a_folder_that_cannot_be_made_ends_with_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"sparsesvm demo: .*Not a directory.*file"):
        cli.main(["demo", "--output", str(tmp_path / "file" / "out")])
