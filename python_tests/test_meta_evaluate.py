"""Paired evaluation: right accuracies and intervals, the same episodes for all, frozen embeddings."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from sparsesvm import PrototypeHead, RidgeHead, SparseSVMHead, cli
from sparsesvm._facts import interval
from sparsesvm.meta import DataError, ImageSet, Method, Setting, compare, default_methods, read_features
from sparsesvm.meta.evaluate import at_ratio, draw
from sparsesvm.meta.report import _describe, _same


def clusters(n_classes=8, per_class=25, n_features=40, noise=1.0):
    """Features around a sparse centre for each class, and the labels."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n_classes, n_features, generator=generator)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    return centres[labels] + noise * torch.randn(len(labels), n_features, generator=generator), labels


def stand_in(labels, groups=None):
    return ImageSet(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, [str(c) for c in range(8)], groups)


def test_scores_are_those_of_each_episode_alone():
    features, labels = clusters()
    images, setting = stand_in(labels), Setting(5, 2, n_query=6)
    comparison = compare({"ridge": Method(features, RidgeHead())}, images, [setting], 30, seed=3)
    found = comparison.scores["ridge"]["5-way 2-shot"]
    for number, episode in enumerate(draw(setting, images, 30, 3)):
        fitted = RidgeHead().fit(features[episode.support], torch.from_numpy(episode.support_labels), 5)
        right = fitted.predict(features[episode.query]) == torch.from_numpy(episode.query_labels)
        assert found.accuracy[number] == pytest.approx(100 * right.double().mean().item())
    assert interval(found.accuracy) == pytest.approx(1.96 * found.accuracy.std() / 30**0.5)
    assert found.gap is None


def test_differences_are_paired():
    features, labels = clusters(noise=1.6)
    methods = {
        "a": Method(features, PrototypeHead()),
        "b": Method(features, SparseSVMHead(0.3)),
        "c": Method(features, PrototypeHead()),
    }
    comparison = compare(methods, stand_in(labels), [Setting(5, 1)], 60, seed=0)
    assert comparison.difference("a", "c", "5-way 1-shot") == (0, 0)
    mean, half = comparison.difference("a", "b", "5-way 1-shot")
    one, other = (comparison.scores[name]["5-way 1-shot"].accuracy for name in "ab")
    assert mean == pytest.approx(one.mean() - other.mean())
    # What the episodes have in common does not widen the interval.
    assert half < np.hypot(interval(one), interval(other))
    assert "All solutions converged." in comparison.markdown()


def test_usage_counts_tasks_and_a_larger_ratio_uses_less():
    features, labels = clusters()
    methods = {str(ratio): Method(features, SparseSVMHead(ratio)) for ratio in (0.0, 0.3, 1.0)}
    found = compare(methods, stand_in(labels), [Setting(5, 1)], 40, seed=0).scores
    dense, sparse, none = (found[name]["5-way 1-shot"] for name in methods)
    assert dense.used.mean() == 100
    assert 0 < sparse.used.mean() < 60
    assert none.used.mean() == 0
    for score in (dense, sparse, none):
        assert score.usage.sum() == pytest.approx(score.used.sum() / 100 * features.shape[1])
        assert score.gap <= 1e-6


def test_a_head_at_another_ratio_differs_in_nothing_else():
    features, labels = clusters()
    head = SparseSVMHead(0.3, lambda2=0.2, dual_reg=0.1, refit=True, max_active=0.1, center=False, learn_penalties=True)
    methods = {
        "changed": Method(features, at_ratio(head, 0.1)),
        "made": Method(features, SparseSVMHead(0.1, lambda2=0.2, dual_reg=0.1, refit=True, center=False)),
    }
    found = compare(methods, stand_in(labels), [Setting(5, 1)], 20, seed=0).scores
    changed, made = (found[name]["5-way 1-shot"] for name in methods)
    np.testing.assert_array_equal(changed.accuracy, made.accuracy)
    np.testing.assert_array_equal(changed.usage, made.usage)
    assert head.lambda1_ratio == 0.3


def test_classes_from_within_a_group_are_harder_to_find_when_there_are_too_few():
    _, labels = clusters()
    images = stand_in(labels, [0] * 5 + [1] * 3)
    for episode in draw(Setting(4, 1, within=True), images, 20, 0):
        assert episode.classes.max() < 5
    with pytest.raises(DataError, match="a group of n_way = 6 classes; the largest has 5"):
        draw(Setting(6, 1, within=True), images, 1, 0)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_frozen_embeddings_are_evaluated_from_the_command_line(tmp_path, capsys, suffix):
    features, labels = clusters()
    path = tmp_path / f"features{suffix}"
    groups = labels % 2
    if suffix == ".npz":
        np.savez(path, features=features.numpy(), labels=labels.numpy() * 10, groups=groups.numpy())
    else:
        torch.save({"features": features, "labels": labels * 10, "groups": groups}, path)
    read, images = read_features(str(path))
    torch.testing.assert_close(read, features)
    assert images.class_names == [str(10 * c) for c in range(8)]
    assert images.class_groups == [0, 1] * 4
    arguments = ["evaluate", str(path), "--episodes", "20", "--output", str(tmp_path / "out"), "--settings", "4,1,within", "3,5"]
    cli.main([*arguments, "--no-figures"] if suffix == ".pt" else arguments)
    printed = capsys.readouterr().out
    assert "| head | 4-way 1-shot within | 3-way 5-shot |" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["results"]) == set(default_methods(features))
    assert (tmp_path / "out" / "curve.png").exists() == (suffix == ".npz")
    for ratio in ("0.0", "1.0") if suffix == ".npz" else ():
        curve = json.loads((tmp_path / "out" / "curve" / "results.json").read_text())["results"]
        assert curve[ratio]["3-way 5-shot"]["features_used"] == (100 if ratio == "0.0" else 0)


LABELS = np.repeat(np.arange(6), 20)
EMBEDDINGS = np.random.default_rng(0).normal(size=(120, 4))
FORMS = {
    "mirrored": {"features": EMBEDDINGS[:, ::-1]},
    "big-endian": {"features": EMBEDDINGS.astype(">f4"), "labels": LABELS.astype(">i2")},
    "half precision": {"features": EMBEDDINGS.astype(np.float16)},
    "extended precision": {"features": EMBEDDINGS.astype(np.longdouble)},
    "labels in a column": {"labels": LABELS[:, None]},
    "labels of Matlab": {"labels": LABELS[:, None].astype(float)},
    "labels of bytes": {"labels": np.array([b"ab", b"c", b"d", b"e", b"f", "\xe9".encode()])[LABELS]},
    "labels of names": {"labels": np.array(["ab", "c", "d", "e", "f", "g h"])[LABELS]},
    "groups of names": {"groups": np.array(["x", "y"])[LABELS % 2]},
}


def test_what_else_a_file_holds_does_not_matter(tmp_path):
    np.savez(tmp_path / "e.npz", features=EMBEDDINGS, labels=LABELS, files=np.array([{}], dtype=object))
    assert len(read_features(str(tmp_path / "e.npz"))[0]) == 120
    torch.save({"features": EMBEDDINGS, "labels": LABELS}, tmp_path / "numpy.pt")
    with pytest.raises(DataError, match=r"numpy\.pt cannot be read as arrays: it holds more than tensors .* Save tensors"):
        read_features(str(tmp_path / "numpy.pt"))


@pytest.mark.parametrize("name", FORMS)
def test_embeddings_are_read_as_other_programs_write_them(tmp_path, name):
    content = {"features": EMBEDDINGS, "labels": LABELS} | FORMS[name]
    np.savez(tmp_path / "e.npz", **content)
    features, images = read_features(str(tmp_path / "e.npz"))
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, content["features"].astype(np.float32), rtol=1e-6)
    assert images.labels.tolist() == LABELS.tolist()
    assert images.class_names[0] in ("0", "ab")
    assert "b'" not in "".join(images.class_names)
    assert images.class_groups == ([0, 1] * 3 if "groups" in content else None)
    found = compare(default_methods(features), images, [Setting(5, 1, n_query=3)], 2, 0)
    assert len(found.scores) == 5


@pytest.mark.parametrize(
    "features",
    [
        torch.from_numpy(EMBEDDINGS).bfloat16(),
        torch.from_numpy(EMBEDDINGS).to(torch.float8_e4m3fn),
        torch.nn.Parameter(torch.from_numpy(EMBEDDINGS)),
        torch.from_numpy(EMBEDDINGS).to_sparse(),
        torch.from_numpy(EMBEDDINGS).mT.contiguous().mT,
    ],
)
def test_embeddings_of_torch_are_read_in_any_form(tmp_path, features):
    torch.save({"features": features, "labels": [str(label) for label in LABELS]}, tmp_path / "e.pt")
    read, images = read_features(str(tmp_path / "e.pt"))
    torch.testing.assert_close(read, features.detach().to_dense().float() if features.is_sparse else features.detach().float())
    assert images.labels.tolist() == LABELS.tolist()


def test_bfloat16_of_numpy_is_read(tmp_path):
    """Numpy has no such type: it stores two bytes without a meaning."""
    half = torch.from_numpy(EMBEDDINGS).bfloat16()
    np.savez(tmp_path / "e.npz", features=half.view(torch.int16).numpy().view("V2"), labels=LABELS)
    torch.testing.assert_close(read_features(str(tmp_path / "e.npz"))[0], half.float(), rtol=0, atol=0)


HOLED = EMBEDDINGS.copy()
HOLED[7, 3] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": HOLED}, r"features must be finite; sample 7 holds NaN or infinity, 1 in all\. Drop them"),
        ({"features": 1e300 * EMBEDDINGS}, r"features must fit in single precision; the largest is .*e\+300\. Rescale them"),
        ({"features": 1e-300 * EMBEDDINGS}, r"features must fit in single precision; the largest is .*e-300"),
        ({"features": LABELS[:, None]}, r"features must be floating-point \(n, n_features\), n > 0; got int64 \(120, 1\)"),
        ({"features": EMBEDDINGS[:0], "labels": LABELS[:0]}, r"features must be floating-point .* got float64 \(0, 4\)"),
        ({"labels": LABELS[1:]}, r"labels must have shape \(120,\), one for each sample; got \(119,\)"),
        (
            {"labels": np.eye(6)[LABELS]},
            r"labels must have shape .* got \(120, 6\)\. One-hot labels become numbers",
        ),
        ({"labels": LABELS + 0.5}, "labels must be integers or names; got float64"),
        ({"labels": np.full(120, np.nan)}, "labels must be integers or names; got float64"),
        (
            {"labels": np.array([(1, 2)] * 120, [("x", int), ("y", int)])},
            r"Take one of the fields, e\.g\. labels\['x'\]",
        ),
        ({"groups": LABELS[1:]}, r"groups must have shape \(120,\)"),
        ({"groups": np.arange(120) % 2}, "every class must be in one group; class 0 is in several"),
        ({"labels": np.array([{}] * 120)}, "cannot be read as arrays: Object arrays cannot be loaded"),
    ],
)
def test_wrong_embeddings_end_with_one_line(tmp_path, changes, message):
    np.savez(tmp_path / "wrong.npz", **{"features": EMBEDDINGS, "labels": LABELS} | changes)
    with pytest.raises(SystemExit, match=rf"^sparsesvm evaluate: .*wrong\.npz.*{message}") as stopped:
        cli.main(["evaluate", str(tmp_path / "wrong.npz")])
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--settings", "5"], "--settings: must be WAY,SHOT or WAY,SHOT,within; got '5'"),
        (["--settings", "1,5"], "--settings: n_way must be at least 2"),
        (["--settings", "5,0"], "--settings: n_shot must be at least 1"),
        (["--settings", "a,b"], "--settings: must be a whole number, 0 or more; got 'a'"),
        (["--copies", "-1"], "--copies: must be a whole number, 0 or more; got '-1'"),
        (["--episodes", "0"], "--episodes: must be a whole number, 1 or more; got '0'"),
        (["--n-query", "0"], "--n-query: must be a whole number, 1 or more; got '0'"),
        (["--seed=-1"], "--seed: must be a whole number, 0 or more; got '-1'"),
        (["--ratio", "2"], r"--ratio: ratio must lie in \[0, 1\]; got 2"),
        (["--ratio", "nan"], "--ratio: ratio must be >= 0 and finite; got nan"),
        (["--ratio", "much"], "--ratio: could not convert string to float: 'much'"),
    ],
)
def test_wrong_options_of_evaluate_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", "features.npz", *arguments])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_sources_that_do_not_go_together_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", features=EMBEDDINGS, labels=LABELS)
    path = str(tmp_path / "a.npz")
    with pytest.raises(SystemExit, match="one file of features at a time"):
        cli.main(["evaluate", path, "other.npz"])
    with pytest.raises(SystemExit, match="--copies is for checkpoints"):
        cli.main(["evaluate", path, "--copies", "2"])
    torch.save((EMBEDDINGS.tolist(), LABELS.tolist()), tmp_path / "a.pt")
    with pytest.raises(SystemExit, match=r"a\.pt must hold a dictionary of arrays; it holds a tuple"):
        cli.main(["evaluate", str(tmp_path / "a.pt")])


def test_few_samples_of_a_class_are_enough_with_few_queries(tmp_path):
    np.savez(tmp_path / "few.npz", features=EMBEDDINGS[::5], labels=LABELS[::5])
    command = ["evaluate", str(tmp_path / "few.npz"), "--episodes", "2", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"n_shot \+ n_query = 1 \+ 15 = 16 samples of a class are needed; class 0 has 4"):
        cli.main([*command, "--settings", "5,1"])
    cli.main([*command, "--settings", "5,1", "--n-query", "3"])
    assert (tmp_path / "out" / "weights.png").is_file()
    curve = json.loads((tmp_path / "out" / "curve" / "results.json").read_text())["results"]["0.0"]["5-way 1-shot"]
    # In percent of 5 x 3 queries.
    assert [15 * accuracy / 100 % 1 for accuracy in curve["episodes"]] == pytest.approx([0, 0], abs=1e-4)


def test_one_episode_has_no_interval(tmp_path):
    np.savez(tmp_path / "a.npz", features=EMBEDDINGS, labels=LABELS)
    cli.main(["evaluate", str(tmp_path / "a.npz"), "--episodes", "1", "--output", str(tmp_path / "out"), "--settings", "5,1"])
    assert "± nan" in (tmp_path / "out" / "table.md").read_text()
    results = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)["results"]
    assert results["ridge"]["5-way 1-shot"]["interval"] is None


def test_the_comparison_of_heads_is_paired_over_episodes_and_averaged_over_seeds():
    from benchmarks.omniglot import FOLDS, VALIDATION, summarise

    found = []
    for seed in range(3):
        features, labels = clusters(noise=1.6 + 0.1 * seed)
        methods = {"sparse": Method(features, SparseSVMHead(0.2)), "ridge": Method(features, RidgeHead())}
        found.append(compare(methods, stand_in(labels), [Setting(5, 1)], 40, seed=0))
    (_, _, _, _, _, none), (setting, head, accuracy, by_seed, used, difference) = summarise(found)
    assert (setting, head, none) == ("5-way 1-shot", "ridge", "-")
    means = [comparison.scores["ridge"]["5-way 1-shot"].accuracy.mean() for comparison in found]
    assert by_seed == ", ".join(f"{mean:.2f}" for mean in means)
    assert accuracy.startswith(f"{np.mean(means):.2f} ± ")
    assert used == "100.0"
    expected = np.mean([comparison.difference("sparse", "ridge", "5-way 1-shot")[0] for comparison in found])
    assert difference.startswith(f"{expected:+.2f} ± ")
    for test, validation in zip(FOLDS, VALIDATION, strict=True):
        assert not set(test) & set(validation)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (SparseSVMHead(0.0), "dense SVM"),
        (SparseSVMHead(lambda1=0.0, refit=True), "dense SVM"),
        (SparseSVMHead(0.0, dual_reg=1.0, refit="ridge"), "sparse SVM (ratio 0, ridge refit)"),
        (SparseSVMHead(0.0, refit=True, max_active=0.25), "sparse SVM (ratio 0, refit, at most 25 %)"),
        (RidgeHead(), "ridge"),
    ],
)
def test_a_head_is_called_dense_only_if_it_uses_all_features_as_an_svm(head, name):
    assert _describe(head) == name


@pytest.mark.parametrize(
    ("head", "same"),
    [
        (SparseSVMHead(lambda1=0.0, dual_reg=1.0, scale=3.0), True),
        (SparseSVMHead(0.0, dual_reg=0.5), False),
        (SparseSVMHead(0.1, dual_reg=1.0), False),
        (RidgeHead(), False),
    ],
)
def test_a_dense_svm_is_listed_once(head, same):
    assert _same(head, SparseSVMHead(0.0, dual_reg=1.0, scale=3.0)) is same


def test_the_penalties_of_dense_heads_fall_with_the_shots_like_the_refits():
    from benchmarks.omniglot import _at_shot

    ridge = RidgeHead(lambda2=1.0)
    assert _at_shot(ridge, 5).lambda2 == 0.2
    assert ridge.lambda2 == 1.0
    assert _at_shot(SparseSVMHead(0.0, dual_reg=1.0), 5).dual_reg == 0.2
    assert _at_shot(SparseSVMHead(0.1, dual_reg=1.0, refit="ridge"), 5).dual_reg == 1.0
