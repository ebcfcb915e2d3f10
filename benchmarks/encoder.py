"""The small Omniglot encoder, as a release has it: `python -m benchmarks.encoder --root omniglot_small.npz`, or `make encoder`.

Trains the configuration `omniglot-small` with a learning rate schedule of `--epochs`, 200 episodes each, and takes its last
checkpoint, so that nothing is chosen; a complete run is not repeated, an interrupted one goes on. Writes the folder
omniglot-small, which `sparsesvm.meta.load` reads: weights as safetensors, configuration, a card with the measured accuracy, both
licences and the checksums of these; and the folder as an archive. The data is the .npz file, or the folder of the official
zip files, which are fetched where they are absent; `SPARSESVM_OMNIGLOT` may say where.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import sparsesvm
from benchmarks.omniglot import ALPHABETS, FOLDS, VALIDATION
from sparsesvm import PrototypeHead, RidgeHead
from sparsesvm._facts import environment
from sparsesvm._files import write_whole
from sparsesvm.meta import Comparison, MetaLearner, Method, compare, embed, load, load_data

NAME = "omniglot-small"
TEST, VAL = FOLDS[0], VALIDATION[0]
TRAIN = tuple(name for name in ALPHABETS if name not in (*TEST, *VAL))
LICENCES = {"LICENSE": "LICENSE", "LICENSE-omniglot.txt": "benchmarks/LICENSE-omniglot.txt"}
CARD = """# Small Omniglot encoder

A convolutional encoder (Conv4, 28x28 grey images to {features:,} features) and its sparse SVM head, for characters of alphabets
never seen in training, by sparsesvm {version} (`python -m benchmarks.encoder --epochs {epochs}`).

    from sparsesvm.meta import load
    learner = load("{name}")  # this folder; needs pip install 'sparsesvm[meta]'
    labels = learner.classify(support_images, support_labels, query_images)

Images are of any size, ink 1 on 0. `sha256sum --check SHA256SUMS` verifies the files.

## Accuracy

On {test}; trained on {train}, {episodes:,} episodes, seed 0, the last checkpoint. Heads on the same features:

{table}

torch {torch}, {processor}. One seed.

## Licence

Weights: BSD-3-Clause, as the package (LICENSE). They were trained on four alphabets of Omniglot (B. M. Lake, R. Salakhutdinov,
J. B. Tenenbaum: Human-level concept learning through probabilistic program induction. Science 350, 2015), which its authors
publish at github.com/brendenlake/omniglot under the MIT licence (LICENSE-omniglot.txt). No image is in this folder.
"""


def train(root: str, run: Path, epochs: int) -> Path:
    """The training; its last checkpoint."""
    command = [sys.executable, "-m", "sparsesvm", "fit", "--config", NAME, "--root", root, f"--trainer.default_root_dir={run}"]
    command += ["--report=false", "--trainer.enable_progress_bar=false", f"--trainer.max_epochs={epochs}"]
    if not root.endswith(".npz"):
        splits = {"train": list(TRAIN), "val": list(VAL), "test": list(TEST), "download": "true"}
        command += [f"--data.reader.init_args.{name}={value}" for name, value in splits.items()]
    last = run / "checkpoints" / "last.ckpt"
    reached = torch.load(last, weights_only=True)["epoch"] + 1 if last.exists() else 0
    if reached < epochs:
        subprocess.run([*command, *(["--ckpt_path=last"] if reached else [])], check=True)
    return last


def evaluate(learner: MetaLearner, checkpoint: Path, root: str, episodes: int) -> tuple[Comparison, int]:
    """The learner's head and two dense ones in the configuration's test settings, and the number of features."""
    data = load_data(str(checkpoint), root)
    images = data.images("test")
    features = embed(learner, images)
    methods = {"sparse SVM": learner.head, "ridge": RidgeHead(), "prototypes": PrototypeHead()}
    found = compare({name: Method(features, head) for name, head in methods.items()}, images, data.settings["test"], episodes, 0)
    return found, features.shape[1]


def write(folder: Path, learner: MetaLearner, card: str) -> Path:
    """The folder with its checksums, and its archive."""
    shutil.rmtree(folder, ignore_errors=True)
    learner.configuration["data"]["reader"]["init_args"]["root"] = "omniglot_small.npz"  # wherever it is for others
    learner.save_pretrained(folder)
    write_whole(folder / "README.md", card)
    for name, source in LICENCES.items():
        shutil.copyfile(Path(__file__).parents[1] / source, folder / name)
    files = sorted(folder.iterdir())
    for path in files:
        path.chmod(0o644)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    write_whole(folder / "SHA256SUMS", "".join(sums))
    return Path(shutil.make_archive(str(folder), "gztar", folder.parent, folder.name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("SPARSESVM_OMNIGLOT")
    parser.add_argument("--root", default=given, required=given is None, help="default: what SPARSESVM_OMNIGLOT says")
    parser.add_argument("--epochs", type=int, default=10, help="of 200 episodes, a minute of one core; the configuration has 36")
    parser.add_argument("--episodes", type=int, default=600, help="of every test setting")
    parser.add_argument("--run", type=Path, default=Path("build/encoder"), help="folder of the training")
    parser.add_argument("--output", type=Path, default=Path("dist"))
    options = parser.parse_args(arguments)
    checkpoint = train(options.root, options.run, options.epochs)
    learner = load(checkpoint)
    found, features = evaluate(learner, checkpoint, options.root, options.episodes)
    facts = environment()
    card = CARD.format(
        name=NAME,
        version=sparsesvm.__version__,
        features=features,
        epochs=options.epochs,
        episodes=200 * options.epochs,
        train=", ".join(TRAIN),
        test=" and ".join(TEST),
        table=found.markdown(),
        torch=facts["versions"]["torch"],
        processor=facts["hardware"]["processor"],
    )
    archive = write(options.output / NAME, learner, card)
    print(f"{card}\nwritten: {archive}")


if __name__ == "__main__":
    main()
