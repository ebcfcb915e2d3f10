"""`sparsesvm evaluate`: the table and the pictures of trained encoders or of frozen embeddings."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from sparsesvm import NoFeaturesWarning, PrototypeHead, RidgeHead, SparseSVMHead, _checks
from sparsesvm._files import ARRAYS, DataError
from sparsesvm.meta import evaluate
from sparsesvm.meta.data import Setting
from sparsesvm.meta.evaluate import Comparison, Method, Score
from sparsesvm.meta.images import ImageSet
from sparsesvm.meta.loading import load, load_data

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
FIGURE_EPISODES = 100
SHOTS = (1, 2, 3, 5, 10)


def main(arguments: Sequence[str]) -> None:
    """The command; what is wrong with the sources ends the program with one line."""
    try:
        run(make_parser().parse_args(arguments))
    except (DataError, OSError) as error:
        raise SystemExit(f"sparsesvm evaluate: {error}") from error


def make_parser() -> argparse.ArgumentParser:
    """The arguments of `sparsesvm evaluate`."""
    parser = argparse.ArgumentParser(prog="sparsesvm evaluate", description=__doc__)
    parser.add_argument(
        "sources", nargs="+", help="checkpoints of `sparsesvm fit`, or one .npz or .pt file of features and labels"
    )
    parser.add_argument("--output", default="sparsesvm-report", help="folder for table.md, results.json and the pictures")
    parser.add_argument("--episodes", type=partial(_whole, least=1), default=600, help="episodes per setting")
    parser.add_argument("--seed", type=_whole, default=0, help="of the episodes")
    parser.add_argument(
        "--split", choices=("val", "test"), default="test", help="of the data that the checkpoint was trained with"
    )
    parser.add_argument("--root", help="where these data are, if not where they were in training")
    parser.add_argument("--copies", type=_whole, default=0, help="embeddings of images are means over so many changed copies")
    parser.add_argument("--ratio", type=_ratio, default=0.2, help="lambda1_ratio of the sparse head put on frozen features")
    parser.add_argument(
        "--settings",
        nargs="+",
        type=_setting,
        metavar="WAY,SHOT",
        help="e.g. 5,1 or 20,5,within; by default the run's test settings",
    )
    parser.add_argument(
        "--n-query",
        type=partial(_whole, least=1),
        help="query samples per class; by default those of the run's first test setting, 15 for frozen features",
    )
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="the table only")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """What the arguments ask for."""
    methods, images, settings = _sources(arguments)
    n_query = arguments.n_query or (settings[0].n_query if arguments.settings else None)
    settings = arguments.settings or settings
    if n_query is not None:
        settings = [replace(setting, n_query=n_query) for setting in settings]
    comparison = evaluate.compare(methods, images, settings, arguments.episodes, arguments.seed)
    output = Path(arguments.output)
    comparison.write(output, sources=arguments.sources, split=arguments.split, copies=arguments.copies)
    print(comparison.markdown())
    if arguments.figures:
        write_figures(comparison, methods, images, settings, output)
    print(f"Written to {output}")


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more; got {text!r}")
    return int(text)


def _ratio(text: str) -> float:
    try:
        return _checks.check_ratio_number(float(text), "ratio")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _setting(text: str) -> Setting:
    parts = text.split(",")
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["within"]):
        raise argparse.ArgumentTypeError(f"must be WAY,SHOT or WAY,SHOT,within; got {text!r}")
    try:
        return Setting(_whole(parts[0]), _whole(parts[1]), within=len(parts) == 3)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _sources(arguments: argparse.Namespace) -> tuple[dict[str, Method], ImageSet, list[Setting]]:
    sources, ratio = arguments.sources, arguments.ratio
    if sources[0].endswith(ARRAYS):
        if len(sources) > 1:
            raise DataError(f"one file of features at a time; got {', '.join(sources)}")
        if arguments.copies:
            raise DataError("--copies is for checkpoints, which can embed changed images; these features are frozen")
        features, images = evaluate.read_features(sources[0])
        return evaluate.default_methods(features, ratio), images, [Setting(5, 1), Setting(5, 5)]
    data = load_data(sources[0], arguments.root)
    images = data.images(arguments.split)
    methods: dict[str, Method] = {}
    first: Tensor | None = None
    for source in sources:
        learner = load(source)
        features = evaluate.embed(learner, images, arguments.copies)
        first = features if first is None else first
        for role, head in (("", learner.head), ("auxiliary ", learner.auxiliary_head)):
            if head is not None:
                if not isinstance(head, SparseSVMHead | RidgeHead | PrototypeHead):
                    known = "SparseSVMHead, RidgeHead and PrototypeHead"
                    raise DataError(f"{source}: {known} can be evaluated here; got the {role}head {type(head).__name__}")
                methods[_name(source, sources) + role + _describe(head)] = Method(features, head.eval())
    assert first is not None
    trained = list(methods.values())
    sparse = any(isinstance(method.head, SparseSVMHead) for method in trained)
    for name, method in evaluate.default_methods(first, ratio).items():
        if not (sparse and name.startswith("sparse")):
            methods[f"{name} on the first encoder"] = method
    own = trained[0].head
    if isinstance(own, SparseSVMHead):
        if own.refit == "ridge":
            methods["ridge refit on all features"] = Method(first, evaluate.at_ratio(own, 0.0))
        dense = evaluate.at_ratio(own, 0.0)
        dense.refit = False
        if any(method.features is first and _same(method.head, dense) for method in trained):
            del methods["SVM on the first encoder"]
        else:
            methods["SVM on the first encoder"] = Method(first, dense)
    return methods, images, data.settings["test"]


def _name(source: str, sources: Sequence[str]) -> str:
    """The run's folder, where there are several."""
    if len(sources) == 1:
        return "trained: "
    parts = [part for part in Path(source).parts if part != "checkpoints"]
    return f"{'/'.join(parts[-2:])}: "


def _same(head: evaluate.Head, dense: SparseSVMHead) -> bool:
    """Whether `head` is this dense SVM, however its penalty of zero is given."""
    return (
        isinstance(head, SparseSVMHead) and _describe(head) == "dense SVM" and repr(evaluate.at_ratio(head, 0.0)) == repr(dense)
    )


def _describe(head: evaluate.Head) -> str:
    if isinstance(head, SparseSVMHead):
        if (head.lambda1 == 0 or head.lambda1_ratio == 0) and head.refit != "ridge" and head.max_active == 1:
            return "dense SVM"
        penalty = f"ratio {head.lambda1_ratio:g}" if head.lambda1_ratio is not None else f"lambda1 {head.lambda1:g}"
        bound = f", at most {100 * head.max_active:g} %" if head.max_active < 1 else ""
        refit = ", ridge refit" if head.refit == "ridge" else ", refit" if head.refit else ""
        return f"sparse SVM ({penalty}{refit}{bound})"
    return "ridge" if isinstance(head, RidgeHead) else "prototype"


def write_figures(
    comparison: Comparison, methods: dict[str, Method], images: ImageSet, settings: list[Setting], output: Path
) -> None:
    """curve.png, usage.png, shots.png and weights.png, of the first method's features and, where it has one, sparse head."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from sparsesvm.meta import figures

    name, (features, head) = next(iter(methods.items()))
    sparse = head if isinstance(head, SparseSVMHead) else SparseSVMHead(refit=True)
    curve = {r: Method(features, evaluate.at_ratio(sparse, r)) for r in RATIOS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoFeaturesWarning)  # the curve ends where none are left
        found = evaluate.compare(
            {str(r): m for r, m in curve.items()}, images, settings, min(FIGURE_EPISODES, comparison.episodes), comparison.seed
        )
    found.write(output / "curve")
    figures.save(figures.draw_curve({r: found.scores[str(r)] for r in RATIOS}), output / "curve.png")
    figures.save(figures.draw_usage(comparison.scores[name]), output / "usage.png")
    by_shot = _by_shot(methods, images, settings[0], min(FIGURE_EPISODES, comparison.episodes), comparison.seed)
    figures.save(figures.draw_shots(by_shot), output / "shots.png")
    draw = evaluate.draw(settings[0], images, 1, comparison.seed)[0]
    with torch.no_grad():
        fitted = methods[name].head.fit(features[draw.support], torch.from_numpy(draw.support_labels), settings[0].n_way)
    labels = torch.from_numpy(draw.support_labels)
    one_each = [int(draw.support[(labels == c).nonzero()[0]]) for c in range(settings[0].n_way)]
    pictures = images.load(np.array(one_each))
    drawing = figures.draw_weights(fitted.weights, pictures, [images.class_names[c] for c in draw.classes])
    drawing.savefig(output / "weights.png", dpi=150)
    pyplot.close("all")


def _by_shot(
    methods: dict[str, Method], images: ImageSet, like: Setting, episodes: int, seed: int
) -> dict[str, dict[int, Score]]:
    smallest = int(min(torch.bincount(torch.from_numpy(images.labels)).tolist()))
    n_query = min(like.n_query, smallest - 1)
    settings = [replace(like, n_shot=shot, n_query=n_query) for shot in SHOTS if shot + n_query <= smallest]
    draws = {setting.n_shot: evaluate.draw(setting, images, episodes, seed) for setting in settings}
    return {
        name: {shot: evaluate.score(method, drawn, like.n_way) for shot, drawn in draws.items()}
        for name, method in methods.items()
    }
