"""What is written is whole or not there; what is damaged or hostile is refused in one line, and runs no code."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from sparsesvm._files import DataError, load_arrays, whole_file, write_whole

WRITE_FOR_EVER = """
import sys
from sparsesvm._files import write_whole
print("begins", flush=True)
while True:
    for letter in "ab":
        write_whole(sys.argv[1], letter * 1_000_000)
"""


@pytest.mark.parametrize("wait", [0.0, 0.01, 0.1])
def test_a_kill_leaves_one_of_the_contents_whole(tmp_path, wait):
    path = tmp_path / "results.json"
    write_whole(path, "a" * 1_000_000)
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begins\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    assert path.read_text() in ("a" * 1_000_000, "b" * 1_000_000)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which is always full")
def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_whole(path, "earlier")
    (tmp_path / ".results.json.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"^cannot write .*results.json: .*No space left on device. An earlier file .* intact.$"):
        write_whole(path, "later")
    assert path.read_text() == "earlier"
    assert sorted(tmp_path.iterdir()) == [path]


def test_what_fails_while_it_writes_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "results.json") as opened:
        opened.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


class Bomb:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile(kind, folder):
    """The path of a file that would create folder/exploded if its code ran."""
    path, exploded = folder / f"data{kind}", folder / "exploded"
    if kind == ".npz":
        np.savez(path, features=np.array([Bomb(exploded)], dtype=object))
    else:
        torch.save({"features": Bomb(exploded)}, path)
    return path


@pytest.mark.parametrize("kind", [".npz", ".pt", ".pth"])
def test_no_code_of_a_file_runs(kind, tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as arrays: [^\n]*$"):
        load_arrays(hostile(kind, tmp_path), ("features",))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", [".npz", ".pt"])
def test_no_damage_does_more_than_a_message_of_one_line(kind, tmp_path, rng):
    path = tmp_path / f"data{kind}"
    arrays = {"features": rng.normal(size=(20, 5)), "labels": np.arange(20)}
    if kind == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    whole = path.read_bytes()
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 20)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole) // 2, 2 * len(whole))])
        try:
            load_arrays(path, ("features", "labels"))
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_an_array_that_claims_to_be_larger_than_memory_is_refused(tmp_path):
    header = str({"descr": "<f8", "fortran_order": False, "shape": (1 << 45,)}).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as opened:
        opened.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match=r"huge.npz cannot be read as arrays: [^\n]*$"):
        load_arrays(tmp_path / "huge.npz", ("features",))


def test_a_pickle_named_as_an_archive_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(DataError, match="cannot be read as arrays"):
        load_arrays(path, ("features",))
    assert not (tmp_path / "exploded").exists()
