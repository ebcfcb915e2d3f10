"""`sparsesvm fit` and its neighbours: train, resume after a kill, several processes, wrong inputs, predictions, report."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import lightning
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from sparsesvm import RidgeHead, cli
from sparsesvm.meta import Conv4, DataError, EpisodeData, MetaLearner, WholeCheckpointIO, command, load, report
from sparsesvm.meta.loading import instantiate

TINY = """
trainer: {{max_epochs: {epochs}, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false,
          default_root_dir: {root}}}
model:
  encoder: {{class_path: sparsesvm.meta.Conv4, init_args: {{channels: 1, widths: [8, 16], pool: [true, true]}}}}
  head: {{class_path: sparsesvm.SparseSVMHead, init_args: {{lambda1_ratio: 0.05, dual_reg: 0.5, refit: ridge}}}}
  auxiliary_head: {{class_path: sparsesvm.RidgeHead}}
  warmup_steps: 2
data:
  reader: {{class_path: sparsesvm.meta.Digits}}
  n_way: [3, 4]
  n_shot: [1, 3]
  n_query: [3, 5]
  support_sets: 2
  rotations: true
  augment: {{shift: 0.1, rotate: 10}}
  tasks_per_step: 2
  episodes_per_epoch: 8
  val_episodes: 20
  test_episodes: 20
"""


@pytest.fixture
def config(tmp_path):
    def make(epochs=2, name="run", extra=""):
        path = tmp_path / f"{name}.yaml"
        path.write_text(TINY.format(epochs=epochs, root=tmp_path / name) + extra)
        return path

    return make


@pytest.fixture(autouse=True)
def one_thread():
    """As many threads as the processes that are compared with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "sparsesvm", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fit(*arguments):
    with warnings.catch_warnings():
        # Lightning remarks on folders that are not empty, which is the point of resuming.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        cli.main(["fit", *map(str, arguments)])


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def rows(root, version=0):
    with open(root / "logs" / f"version_{version}" / "metrics.csv", newline="") as opened:
        return list(csv.DictReader(opened))


def test_fit_leaves_checkpoints_logs_configuration_table_and_pictures(config, tmp_path, capsys):
    fit("--config", config())
    root = tmp_path / "run"
    assert {path.name for path in (root / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (root / "logs" / "version_0" / "config.yaml").is_file()
    assert (root / "tensorboard").is_dir() == (importlib.util.find_spec("tensorboard") is not None)
    steps = [row for row in rows(root) if row["train/loss"]]
    assert len(steps) == 2 * 4
    for row in steps:
        assert 0 < float(row["train/features_used"]) < 1
        assert float(row["train/gap"]) >= 0
        assert float(row["train/unconverged"]) == 0
        assert float(row["train/head_ms"]) > 0
        assert 0 <= float(row["train/accuracy"]) <= 1
    assert float([row for row in rows(root) if row["val/accuracy"]][-1]["val/accuracy"]) > 0.3
    printed = capsys.readouterr().out
    assert "| trained: sparse SVM (ratio 0.05, ridge refit) |" in printed
    assert {path.name for path in (root / "report").iterdir()} == {
        "curve",
        "table.md",
        "results.json",
        "curve.png",
        "usage.png",
        "shots.png",
        "weights.png",
    }
    found = json.loads((root / "report" / "results.json").read_text())["results"]
    assert len(found) == 6
    assert {"trained: auxiliary ridge", "ridge refit on all features", "SVM on the first encoder"} <= found.keys()
    own = found["trained: sparse SVM (ratio 0.05, ridge refit)"]["5-way 1-shot"]
    assert len(own["episodes"]) == 20
    assert own["accuracy"] == pytest.approx(np.mean(own["episodes"]), abs=1e-3)

    averaged = ["evaluate", str(root / "checkpoints" / "best.ckpt"), "--episodes", "20", "--copies", "4", "--no-figures"]
    cli.main([*averaged, "--output", str(tmp_path / "averaged")])
    content = json.loads((tmp_path / "averaged" / "results.json").read_text())
    assert content["copies"] == 4
    other = content["results"]["trained: sparse SVM (ratio 0.05, ridge refit)"]["5-way 1-shot"]
    assert other["episodes"] != own["episodes"]
    assert other["accuracy"] > own["accuracy"] - 10

    # The checkpoint alone is enough for the other commands and from Python.
    capsys.readouterr()
    cli.main(["test", "--config", str(config()), "--ckpt_path", str(root / "checkpoints" / "best.ckpt")])
    tested = capsys.readouterr().out
    assert "test/5-way 1-shot" in tested
    logged = next(row for row in rows(root, 1) if row["test/accuracy"])
    assert 100 * float(logged["test/accuracy"]) == pytest.approx(own["accuracy"], abs=0.01)
    cli.main(["validate", "--config", str(config()), "--ckpt_path", str(root / "checkpoints" / "best.ckpt")])
    learner = load(root / "checkpoints" / "best.ckpt")
    assert not learner.training
    assert (learner.head.lambda1_ratio, learner.head.refit) == (0.05, "ridge")
    assert learner.embed(np.zeros((2, 16, 16), np.uint8)).shape == (2, 64)


def test_a_sparse_head_turns_from_dense_to_sparse_in_training_alone(config, monkeypatch):
    seen = {"training": [], "validation": []}

    def watch(stage):
        step = getattr(MetaLearner, f"{stage}_step")

        def watched(self, *arguments):
            seen[stage].append((self.head.lambda1_ratio, self.head.max_active))
            return step(self, *arguments)

        monkeypatch.setattr(MetaLearner, f"{stage}_step", watched)

    watch("training")
    watch("validation")
    options = ["--model.sparsity_warmup", "0.5", "--model.head.init_args.max_active", "0.5", "--report", "false"]
    cli.main(["fit", "--config", str(config(2)), *options])
    # Two epochs of four steps; half of them are on the way.
    shares = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert np.array(seen["training"]) == pytest.approx(np.array([(0.05 * share, 1 - 0.5 * share) for share in shares]))
    assert set(seen["validation"]) == {(0.05, 0.5)}


class OwnHead(torch.nn.Module):
    """A head of a user: it has the call of the others, and nothing else."""

    def __init__(self):
        super().__init__()
        self.ridge = RidgeHead()

    def forward(self, *arguments, **options):
        return self.ridge(*arguments, **options)


@pytest.mark.parametrize(("option", "role"), [("--model.head", ""), ("--model.auxiliary_head", "auxiliary ")])
def test_a_head_of_a_user_trains_and_has_no_report(config, tmp_path, capsys, option, role):
    fit("--config", config(epochs=1), option, f"{__name__}.OwnHead")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    said = capsys.readouterr().err
    assert "trained, but there is no report on the test split: " in said
    assert f"PrototypeHead can be evaluated here; got the {role}head OwnHead" in said


def test_a_dense_svm_that_helped_to_train_is_compared_once(config, tmp_path):
    auxiliary = "--model.auxiliary_head={class_path: sparsesvm.SparseSVMHead, init_args: {lambda1: 0, dual_reg: 0.5}}"
    fit("--config", config(epochs=1), auxiliary, "--report=false")
    checkpoint, output = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "once"
    cli.main(["evaluate", str(checkpoint), "--episodes", "5", "--no-figures", "--output", str(output)])
    found = json.loads((output / "results.json").read_text())["results"]
    assert "trained: auxiliary dense SVM" in found
    assert "SVM on the first encoder" not in found


def test_predictions_are_written(config, tmp_path):
    fit("--config", config(1), "--report", "false")
    images = np.random.default_rng(0).integers(0, 255, (6, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "support.npz", images=images, labels=np.array(["x", "x", "y", "y", "z", "z"]))
    np.savez(tmp_path / "query.npz", images=images[[4, 0, 3]])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    arguments = ["--config", config(1), "--ckpt_path", last, "--data.predict_support", tmp_path / "support.npz"]
    query = ["--data.predict_query", str(tmp_path / "query.npz"), "--trainer.callbacks", "DeviceStatsMonitor"]
    cli.main(["predict", *map(str, arguments), *query, "--trainer.callbacks.cpu_stats", "false"])
    with open(tmp_path / "run" / "predictions.csv", newline="") as opened:
        assert list(csv.reader(opened)) == [["image", "class"], ["0", "z"], ["1", "x"], ["2", "y"]]
    for name, image in (
        ("support/x/1.png", images[0]),
        ("support/y/1.png", images[2]),
        ("query/b.png", images[2]),
        ("query/a.png", images[0]),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    reader = [
        "--data.reader",
        "sparsesvm.meta.ClassFolders",
        "--root",
        "unused",
        "--data.reader.size",
        "8",
        "--data.reader.channels",
        "1",
    ]
    folders = ["--data.predict_support", str(tmp_path / "support"), "--data.predict_query", str(tmp_path / "query")]
    cli.main(["predict", *map(str, arguments[:4]), *reader, *folders])
    with open(tmp_path / "run" / "predictions.csv", newline="") as opened:
        assert list(csv.reader(opened)) == [["image", "class"], ["a.png", "x"], ["b.png", "y"]]
    wider = ("--model.encoder.widths", "[8, 24]")
    with pytest.raises(SystemExit, match=r"another encoder or head: .* is \(16, 8, 3, 3\) in the checkpoint and \(24"):
        cli.main(["test", "--config", str(config(1)), "--ckpt_path", str(last), *wider])
    with pytest.raises(SystemExit, match=r"predict needs --data\.predict_support and --data\.predict_query"):
        cli.main(["predict", "--config", str(config(1)), "--ckpt_path", str(last)])


@pytest.mark.parametrize("when", ["between epochs", "within an epoch"])
def test_a_killed_run_resumes_to_the_same_end(config, tmp_path, when):
    extra = "checkpoint: {every_n_train_steps: 3, monitor: null}\n" if when == "within an epoch" else ""
    options = ["--report", "false", "--model.sparsity_warmup", "1.0"]
    fit("--config", config(4, "whole", extra), *options)
    killed = start("fit", "--config", config(4, "killed", extra), *options, "--trainer.limit_val_batches", "1.0")
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    limit = time.monotonic() + 60
    while not last.exists() and time.monotonic() < limit and killed.poll() is None:
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    reached = torch.load(last, weights_only=True)["global_step"]
    assert 0 < reached < 16
    fit("--config", config(4, "killed", extra), *options, "--ckpt_path", "last")
    whole, resumed = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "killed"))
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=0, msg=name)
    final = [
        [row for row in rows(tmp_path / name, version) if row["val/accuracy"]][-1]
        for name, version in (("whole", 0), ("killed", 1))
    ]
    assert final[0]["val/accuracy"] == final[1]["val/accuracy"]


def test_the_last_checkpoint_is_the_last_though_an_earlier_one_is_best(config, tmp_path):
    # The lowest accuracy counts as the best: that of the first epochs.
    fit("--config", config(6), "--report", "false", "--checkpoint.mode", "min")
    best, last = (torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] < last["global_step"] == 6 * 4
    assert last["epoch"] == 5
    fit("--config", config(8), "--report", "false", "--checkpoint.mode", "min", "--ckpt_path", "last")
    assert [row["epoch"] for row in rows(tmp_path / "run", 1) if row["train/loss"]] == ["6"] * 4 + ["7"] * 4


def test_optimizer_and_schedule_by_class_path(config, tmp_path):
    classes = ("--model.optimizer", "torch.optim.RAdam", "--model.optimizer.lr", "0.02")
    classes += ("--model.schedule", "torch.optim.lr_scheduler.ExponentialLR", "--model.schedule.gamma", "0.5")
    fit("--config", config(2), "--report", "false", *classes)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    (state,) = torch.load(last, weights_only=True)["optimizer_states"]
    assert [group["lr"] for group in state["param_groups"]] == [0.02 * 0.5**2] * 2
    made = load(last).configure_optimizers()["optimizer"]
    assert type(made) is torch.optim.RAdam
    assert made.param_groups[0]["lr"] == 0.02
    fit("--config", config(3), "--report", "false", *classes, "--ckpt_path", "last")
    (state,) = torch.load(last, weights_only=True)["optimizer_states"]
    assert state["param_groups"][0]["lr"] == 0.02 * 0.5**3


def test_two_processes_give_what_one_gives(config, tmp_path):
    common = ("--report", "false", "--model.optimizer", "sgd", "--model.learning_rate", "0.05")
    fit("--config", config(2, "one"), *common)
    two = start(
        "fit",
        "--config",
        config(2, "two"),
        *common,
        "--data.tasks_per_step",
        "1",
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp",
    )
    output, _ = two.communicate(timeout=120)
    assert two.returncode == 0, output
    one, both = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "two"))
    for name in one:
        # Sums over the samples of both processes round differently.
        torch.testing.assert_close(both[name], one[name], rtol=1e-3, atol=1e-5, msg=name)
    final = [[row for row in rows(tmp_path / name) if row["val/accuracy"]][-1] for name in ("one", "two")]
    assert float(final[0]["val/accuracy"]) == pytest.approx(float(final[1]["val/accuracy"]), abs=0.01)


def test_a_full_disk_leaves_the_last_good_checkpoint(config, tmp_path, monkeypatch):
    fit("--config", config(1), "--report", "false")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    real = os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit, match=r"cannot write .*\.ckpt: .*No space left on device.*is intact"):
        fit("--config", config(2), "--report", "false", "--ckpt_path", "last")
    monkeypatch.setattr(os, "fsync", real)
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*.part"))
    fit("--config", config(2), "--report", "false", "--ckpt_path", "last")
    assert torch.load(last, weights_only=True)["epoch"] == 1


class Bomb:
    gone_off = False

    def __reduce__(self):
        return setattr, (Bomb, "gone_off", True)


def test_checkpoints_of_others_are_refused(config, tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"sparsesvm": [1]}, tmp_path / "lists.ckpt")
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
    for name, message in (
        ("text", "cannot be read as a checkpoint"),
        ("other", "is not a checkpoint of `sparsesvm fit`"),
        ("list", "is not a checkpoint of `sparsesvm fit`"),
        ("lists", "is not a checkpoint of `sparsesvm fit`"),
        ("bomb", "cannot be read"),
    ):
        path = tmp_path / f"{name}.ckpt"
        for attempt in (
            load,
            WholeCheckpointIO().load_checkpoint,
            lambda path: report.run(report.make_parser().parse_args([str(path)])),
        ):
            with pytest.raises(DataError, match=message):
                attempt(path)
        for arguments in (["evaluate", path], ["test", "--config", config(), "--ckpt_path", path]):
            with pytest.raises(SystemExit, match=message):
                cli.main([str(argument) for argument in arguments])
    with pytest.raises(SystemExit, match=r"absent\.ckpt cannot be read as a checkpoint"):
        cli.main(["evaluate", str(tmp_path / "absent.ckpt")])
    assert not Bomb.gone_off


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data.n_way", "30"],
            r"sparsesvm fit: an episode of n_way = 30 classes needs as many; the data has 5, 20 with their rotations",
        ),
        (["--data.n_shot", "200"], r"n_shot \+ n_query = 200 \+ 5 = 205 samples of a class are needed"),
        (
            ["--data.episodes_per_epoch", "7"],
            r"an epoch of 7 episodes does not divide into steps of 2 tasks in 1 processes\. Use a multiple of 2",
        ),
        (["--model.head.lambda2", "-1"], r"lambda2 must be"),
        (["--model.auxiliary_head.lambda2", "-1"], r"^sparsesvm fit: lambda2 must be positive and finite; got -1\.0$"),
        (["--data.tasks_per_step", "0"], r"tasks_per_step must be at least 1 and below 2\*\*63; got 0"),
        (["--data.episodes_per_epoch", "0"], r"episodes_per_epoch must be at least 1"),
        (["--data.tasks_per_batch", "0"], r"tasks_per_batch must be at least 1"),
        (["--data.val_episodes", "0"], r"val_episodes must be at least 1"),
        (["--data.test_episodes=-1"], r"test_episodes must be at least 1"),
        (["--data.num_workers=-1"], r"num_workers must be at least 0"),
        (["--data.n_way", "1"], r"n_way must be a number of at least 2"),
        (["--data.n_shot", "[3,2]"], r"n_shot must be a number of at least 1, or such numbers"),
        (["--data.within", "2"], r"within must lie in \[0, 1\]; got 2"),
        (["--data.within", "0.5"], r"within > 0 needs groups of classes, as alphabets are; these data have none"),
        (["--data.class_augment_share", "2"], r"class_augment_share must lie in \[0, 1\]; got 2"),
        (["--data.val", "[]"], r"val must hold at least one setting; got none"),
        (["--model.learning_rate=-1"], r"learning_rate must be >= 0 and finite; got -1"),
        (["--model.weight_decay=-1"], r"weight_decay must be >= 0"),
        (["--model.warmup_steps=-1"], r"warmup_steps must be at least 0"),
        (["--model.label_smoothing=2"], r"label_smoothing must lie in \[0, 1\]; got 2"),
        (["--model.schedule={-1: 0.1}"], r"an epoch of schedule must be at least 0"),
        (["--model.schedule={1: -0.1}"], r"a learning rate of schedule must be >= 0"),
        (["--model.encoder.channels", "3"], r"Conv4 does not take images of shape \(1, 8, 8\): .* to have 3 channels, but got 1"),
        (["--model.head.group_size", "7"], r"group_size must divide the number of features, 64; got 7"),
        (["--model.head.group_size", "0"], r"group_size must be at least 1"),
        (["--model.head.tol=-1"], r"tol must be >= 0"),
        (["--model.head.max_iter=-1"], r"max_iter must be at least 0"),
        (["--model.head.on_failure=foo"], r'on_failure must be "ignore", "warn" or "raise"; got \'foo\''),
        (["--config", "absent"], r"config must be a file or one of .*digits.*; got absent"),
        (
            ["--data.reader", "sparsesvm.meta.ClassFolders", "--root", "/absent"],
            r"root must be a folder of images; /absent is not there",
        ),
    ],
)
def test_wrong_requests_end_with_one_line(config, arguments, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        fit("--config", config(), *arguments)
    assert "\n" not in str(stopped.value)


TRAINER_OPTIONS = {
    "accumulate_grad_batches": ["2"],
    "benchmark": ["true"],
    "callbacks": ["LearningRateMonitor", "StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1"],
    "check_val_every_n_epoch": ["2"],
    "deterministic": ["true", "warn"],
    "detect_anomaly": ["true"],
    "enable_autolog_hparams": ["false"],
    "enable_model_summary": ["true"],
    "enable_progress_bar": ["true"],
    "gradient_clip_algorithm": ["value"],
    "gradient_clip_val": ["null", "0"],
    "inference_mode": ["false"],
    "limit_train_batches": ["1", "0.5"],
    "limit_val_batches": ["1"],
    "log_every_n_steps": ["0", "50"],
    "logger": ["true", "CSVLogger --trainer.logger.save_dir x"],
    "max_time": ["01:00:00:00"],
    "min_epochs": ["3"],
    "min_steps": ["20"],
    "model_registry": ["x"],
    "num_sanity_val_steps": ["2"],
    "plugins": ["MixedPrecision --trainer.plugins.precision bf16-mixed --trainer.plugins.device cpu"],
    "precision": ["32", "64-true", "bf16-mixed", "bf16-true"],
    "profiler": ["simple"],
    "reload_dataloaders_every_n_epochs": ["1"],
    "strategy": ["ddp"],
    "sync_batchnorm": ["true"],
    "use_distributed_sampler": ["false"],
    "val_check_interval": ["2", "0.5"],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, values in TRAINER_OPTIONS.items() for value in values])
@pytest.mark.filterwarnings("ignore::Warning")  # Lightning's remarks
def test_options_of_the_trainer_work(config, tmp_path, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    few = ("--data.val_episodes=2", "--data.episodes_per_epoch=4", "--report=false")
    try:
        fit("--config", config(2), *few, f"--trainer.{option}", *value.split())
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    load(tmp_path / "run" / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trainer.fast_dev_run=true"], ""),
        (["--trainer.enable_checkpointing=false"], "no report: no checkpoint is the best one"),
        (["--trainer.limit_train_batches=0"], "no report: no checkpoint is the best one"),
        (["--trainer.max_epochs=0"], "no report: no checkpoint is the best one"),
        (["--trainer.max_steps=0"], "no report: no checkpoint is the best one"),
    ],
)
@pytest.mark.filterwarnings("ignore::Warning")
def test_a_run_that_leaves_no_checkpoint_says_so(config, tmp_path, capsys, arguments, said):
    fit("--config", config(1), *arguments)
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--trainer.limit_val_batches=0"], ["--trainer.max_steps=3"], ["--checkpoint.save_top_k=0"]],
)
@pytest.mark.filterwarnings("ignore::Warning")
def test_a_run_without_a_best_checkpoint_says_so(config, tmp_path, capsys, arguments):
    fit("--config", config(1), *arguments)
    assert [path.name for path in (tmp_path / "run").glob("checkpoints/*")] == ["last.ckpt"]
    assert "no report: no checkpoint is the best one" in capsys.readouterr().err


def test_the_last_checkpoint_may_be_a_link_or_hold_weights_alone(config, tmp_path):
    fit("--config", config(1), "--report=false", "--checkpoint.save_last=link")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_symlink()
    fit("--config", config(1, "light"), "--report=false", "--checkpoint.save_weights_only=true")
    assert "optimizer_states" not in torch.load(tmp_path / "light" / "checkpoints" / "last.ckpt", weights_only=True)


REFUSED_OPTIONS = {
    "--trainer.accelerator=foo": "invalid accelerator name: `accelerator='foo'`",
    "--trainer.accelerator=tpu": r"torch_xla.* \(given: .*trainer\.accelerator=tpu",
    "--trainer.accumulate_grad_batches=0": r"trainer\.accumulate_grad_batches must be at least 1; got 0",
    "--trainer.barebones=true": r"trainer\.barebones must be false",
    "--trainer.callbacks=BatchSizeFinder": r"Field batch_size not found .*trainer\.callbacks=.*BatchSizeFinder",
    "--trainer.callbacks=Timer": r"cannot represent.* \(given: .*trainer\.callbacks=.*Timer",
    "--trainer.check_val_every_n_epoch=0": r"trainer\.check_val_every_n_epoch must be at least 1; got 0",
    "--trainer.devices=0": r"Trainer\(devices='0'\)",
    "--trainer.gradient_clip_algorithm=foo": "`gradient_clip_algorithm` foo is invalid",
    "--trainer.limit_train_batches=1.5": "invalid value 1.5 for limit_train_batches",
    "--trainer.limit_val_batches=0.1": "increase the `limit_val_batches` argument",
    "--trainer.max_time=soon": r"`Timer\(duration='soon'\)` is not a valid duration.* trainer\.max_time=soon",
    "--trainer.overfit_batches=1": r"trainer\.overfit_batches must be 0, .*; got 1\. Use data\.episodes_per_epoch",
    "--trainer.plugins=TorchCheckpointIO": "multiple values for CheckpointIO flags in `plugins`",
    "--trainer.precision=transformer-engine": r"transformer_engine.* trainer\.precision=transformer-engine",
    "--trainer.profiler=foo": "string value for the `profiler` parameter",
    "--trainer.strategy=ddp_spawn": r"trainer\.strategy must start its processes anew, as ddp does; got ddp_spawn",
    "--trainer.strategy=ddp_notebook_find_unused_parameters_false": r"trainer\.strategy must start its processes anew",
    "--trainer.strategy=fsdp": "The strategy `fsdp` requires a GPU accelerator",
    "--trainer.val_check_interval=100": r"`val_check_interval` \(100\) must be less than or equal to",
    "--checkpoint.mode=foo": r"`mode` can be min, max but got foo \(given: .*checkpoint\.mode=foo",
    "--checkpoint.monitor=nothing": r"`ModelCheckpoint\(monitor='nothing'\)` could not find the monitored key",
}


@pytest.mark.parametrize("argument", REFUSED_OPTIONS)
@pytest.mark.filterwarnings("ignore::Warning")
def test_options_of_the_trainer_that_cannot_work_end_with_one_line_that_names_them(config, argument):
    with pytest.raises(SystemExit, match=rf"^sparsesvm fit: .*{REFUSED_OPTIONS[argument]}") as stopped:
        fit("--config", config(1), "--report=false", argument)
    assert "\n" not in str(stopped.value)


def test_a_seed_decides_and_the_saved_configuration_repeats_the_run(config, tmp_path):
    fit("--config", config(1), "--report=false", "--seed_everything", "5")
    saved = tmp_path / "run" / "logs" / "version_0" / "config.yaml"
    assert "seed_everything: 5\n" in saved.read_text()
    fit("--config", config(1, "other"), "--report=false", "--seed_everything", "6")
    fit("--config", saved, "--report=false", "--trainer.default_root_dir", tmp_path / "again", "--checkpoint.dirpath=null")
    first, other, again = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("run", "other", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("value", ["true", "false", "-1", "4294967296", "x"])
def test_a_seed_is_a_number(config, capsys, value):
    with pytest.raises(SystemExit) as stopped:
        fit("--config", config(1), f"--seed_everything={value}")
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith('sparsesvm fit: error: Parser key "seed_everything": Not of type Seed: ')


class FailingHead(OwnHead):
    def forward(self, *arguments, **options):
        raise ValueError("a mistake of its author")


def test_weights_of_no_checkpoint_are_noted(config, capsys):
    cli.main(["validate", "--config", str(config())])
    assert "without --ckpt_path the weights are random" in capsys.readouterr().err


def test_a_mistake_in_a_head_of_a_user_shows_where(config):
    with pytest.raises(ValueError, match="a mistake of its author"):
        fit("--config", config(1), "--model.head", f"{__name__}.FailingHead")


def test_training_that_diverges_ends_with_one_line(config):
    with pytest.raises(SystemExit, match=r"the encoder gives features that are not finite, after \d+ training steps\. Lower"):
        fit("--config", config(3), "--report=false", "--model.learning_rate=1e30", "--trainer.gradient_clip_val=null")


def test_an_unknown_key_is_named(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        fit("--config", config(extra="  colour: red\n"))
    assert stopped.value.code == 2
    assert "colour" in capsys.readouterr().err


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_help_fits_on_a_screen_and_names_options_that_exist(subcommand, capsys):
    cli.main([subcommand, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    with pytest.raises(SystemExit) as ended:
        cli.main([subcommand, "--help-all"])
    assert ended.value.code == 0
    everything = capsys.readouterr().out
    shown = re.findall(r"--[a-z_0-9.]+", "\n".join(lines[4:-2]))
    assert len(shown) >= 6
    for option in shown:
        assert option in everything or option in ("--root", "--split", "--model.head.lambda1_ratio"), option


def test_a_flat_folder_of_classes_is_shared_out(tmp_path, config):
    for number in range(10):
        for image in range(6):
            (tmp_path / "images" / f"class {number}").mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * number + image).save(tmp_path / "images" / f"class {number}" / f"{image}.png")
    reader = ["--data.reader.size", "8", "--data.reader.channels", "1", "--model.encoder.widths", "[4, 4]"]
    small = ["--data.n_way", "2", "--data.n_shot", "1", "--data.episodes_per_epoch", "2", "--data.val_episodes", "2"]
    settings = ["--data.val", "[{n_way: 2, n_query: 2}]", "--data.test", "[{n_way: 2, n_query: 2}]", "--data.test_episodes", "2"]
    trainer = [
        "--trainer.max_epochs",
        "1",
        "--trainer.default_root_dir",
        tmp_path / "run",
        "--trainer.enable_progress_bar",
        "false",
    ]
    given = ["--model.encoder.channels", "1", "--data.augment", "null", *reader, *small, *settings, *trainer]
    fit("--config", "folders", "--root", tmp_path / "images", "--split", "0.4,0.3,0.3", *given)
    assert (tmp_path / "run" / "report" / "table.md").is_file()
    with pytest.raises(SystemExit, match=r"split must be three shares >= 0 that add up to 1"):
        fit("--config", "folders", "--root", tmp_path / "images", "--split=0.4,0.3,0.4", *given)


def test_a_checkpoint_loads_without_arguments_and_the_logger_has_the_hyperparameters(config, tmp_path, capsys):
    fit("--config", config(epochs=1), "--report", "false")
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    learner = MetaLearner.load_from_checkpoint(path)
    assert isinstance(learner.auxiliary_head, RidgeHead)
    for name, value in load(path).state_dict().items():
        torch.testing.assert_close(learner.state_dict()[name], value)

    class Own(MetaLearner):
        pass

    assert type(Own.load_from_checkpoint(path, map_location="cpu")) is Own
    digits = torch.rand(5, 1, 8, 8)
    load(path).save_pretrained(tmp_path / "models" / "tiny")
    (folder,) = (tmp_path / "models").iterdir()
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.yaml"}
    again = load(folder)
    assert not again.training and again.configuration == learner.configuration
    torch.testing.assert_close(again.embed(digits), load(path).embed(digits), rtol=0, atol=0)
    with pytest.raises(ValueError, match="must have 1 channels, as in training"):
        again.embed(torch.rand(5, 3, 8, 8))
    report.run(report.make_parser().parse_args([str(folder), "--episodes", "5", "--output", str(tmp_path / "evaluated")]))
    cli.main(["validate", "--config", str(config()), "--ckpt_path", str(folder)])
    assert "val/accuracy" in capsys.readouterr().out
    (folder / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"tiny cannot be read as a checkpoint: .*config\.yaml"):
        load(folder)
    logged = yaml.safe_load((tmp_path / "run" / "logs" / "version_0" / "hparams.yaml").read_text())
    assert logged["model"]["head"]["init_args"]["lambda1_ratio"] == 0.05
    assert logged["data"]["tasks_per_step"] == 2


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated")
def test_a_learner_made_in_python_logs_how_and_loads_with_its_parts(config, tmp_path):
    data = instantiate(EpisodeData, yaml.safe_load(config().read_text())["data"])
    make = {"encoder": lambda: Conv4(channels=1, widths=[8, 16], pool=[True, True]), "head": RidgeHead}
    learner = MetaLearner(**{name: part() for name, part in make.items()}, learning_rate=0.01)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=1, logger=CSVLogger(tmp_path, "logs"), log_every_n_steps=1, **options)
    trainer.fit(learner, data)
    logged = yaml.safe_load((tmp_path / "logs" / "version_0" / "hparams.yaml").read_text())
    assert logged["encoder"] == "Conv4" and logged["head"].startswith("RidgeHead(") and logged["learning_rate"] == 0.01
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(DataError, match="save_pretrained needs a learner of `sparsesvm fit`"):
        learner.save_pretrained(tmp_path / "own")
    with pytest.raises(DataError, match=r"load_from_checkpoint\(path, encoder=\.\.\., head=\.\.\.\)"):
        MetaLearner.load_from_checkpoint(tmp_path / "own.ckpt")
    parts = {name: part() for name, part in make.items()}
    again = MetaLearner.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True, **parts)
    for name, value in learner.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_a_corrupt_image_is_named_from_a_worker_too(tmp_path, config):
    for split in ("train", "val"):
        for name in "abc":
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(10):
                Image.new("L", (8, 8), 10 * number).save(tmp_path / "images" / split / name / f"{number}.png")
    for number in range(10):
        (tmp_path / "images" / "train" / "b" / f"{number}.png").write_bytes(b"nothing")
    reader = ["--data.reader", "sparsesvm.meta.ClassFolders", "--data.reader.size", "8", "--data.reader.channels", "1"]
    ways = ["--data.n_way", "3", "--data.val", '[{"n_way": 3, "n_query": 5}]']
    with pytest.raises(SystemExit, match=r"b/\d\.png cannot be read as an image") as stopped:
        fit("--config", config(), *reader, "--root", tmp_path / "images", *ways, "--data.num_workers", "1")
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("name", sorted(path.name for path in command.CONFIGS.iterdir() if path.name.endswith(".yaml")))
def test_packaged_configurations_are_valid(name):
    """All keys and values make a trainer, a learner and its data; no images are read."""
    content = yaml.safe_load((command.CONFIGS / name).read_text())
    assert set(content) <= {"trainer", "model", "data", "checkpoint", "report"}
    lightning.Trainer(**content["trainer"] | {"logger": False, "accelerator": "cpu", "callbacks": None})
    learner = instantiate(MetaLearner, content["model"])
    data = instantiate(EpisodeData, content["data"])
    assert learner.encoder.eval()(torch.zeros(1, *SHAPES.get(name, (1, 28, 28)))).shape[1] % learner.head.group_size == 0
    assert len(data.settings["test"]) >= 2


SHAPES = {
    "digits.yaml": (1, 8, 8),
    "miniimagenet.yaml": (3, 84, 84),
    "tieredimagenet.yaml": (3, 84, 84),
    "cifar-fs.yaml": (3, 32, 32),
    "fc100.yaml": (3, 32, 32),
    "folders.yaml": (3, 84, 84),
}
