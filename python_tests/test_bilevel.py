"""Learners, training and validation: sparse tasks turn a mixed representation into the factors, dense ridge does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsesvm.bilevel.encoders import Encoder, SpatialPooling, TaskBatchNorm, conv_encoder, mlp_encoder, spatial_encoder
from sparsesvm.bilevel.learners import InnerLasso, InnerRidge, Learner, OuterL1, SparseSVM
from sparsesvm.bilevel.tasks import BernoulliSupport, FixedSizeSupport
from sparsesvm.bilevel.training import TaskSource, encode, independent_components, score, train, validation_error
from sparsesvm.factors import Gaussian, SceneRenderer, UniformBox

MIXING = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(7)))[0]


def mix(factors):
    return factors @ MIXING


def linear_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(nn.Linear(3, 3), 3)


def oracle(rotation: torch.Tensor) -> Encoder:
    """The encoder that undoes the mixing and then turns."""
    encoder = linear_encoder()
    encoder.body.weight.data = (MIXING.mT @ rotation).mT.clone()
    encoder.body.bias.data.zero_()
    return encoder.eval()


def trained(learner: Learner, source: TaskSource, **options) -> float:
    encoder = linear_encoder()
    train(encoder, learner, source, learning_rate=1e-2, **options)
    factors = UniformBox(3).draw(2000, torch.Generator().manual_seed(1))
    scores = score(factors, encode(encoder, mix, factors))
    assert scores.r > 0.99
    return scores.mcc


@pytest.fixture
def source():
    return TaskSource(Gaussian(3), mix, FixedSizeSupport(3, 1))


def test_each_task_is_standardised_by_itself(generator):
    norm = TaskBatchNorm(4, momentum=0.5)
    features = 3 * torch.randn(5, 2000, 4, generator=generator) + torch.randn(5, 1, 4, generator=generator)
    out = norm(features)
    torch.testing.assert_close(out.mean(1), torch.zeros(5, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, correction=0), torch.ones(5, 4), atol=1e-4, rtol=0)
    mean = features.mean((0, 1))
    torch.testing.assert_close(norm.running_mean, 0.5 * mean)
    for _ in range(30):
        norm(features)
    torch.testing.assert_close(norm.eval()(features[:1, :1]), (features[:1, :1] - mean) / 3, atol=0.1, rtol=0)


def test_the_inner_lasso_finds_the_factors_and_ridge_does_not(source):
    assert trained(InnerLasso(0.3), source, steps=300) > 0.98
    assert trained(InnerLasso(0.3), source, steps=300, split=True) > 0.98
    assert trained(OuterL1(0.1), source, steps=300) > 0.98
    assert trained(InnerRidge(), source, steps=300) < 0.95


def test_the_sparse_svm_finds_the_factors(source):
    classification = TaskSource(source.latents, mix, source.tasks, n_way=3)
    assert trained(SparseSVM(0.5, 3), classification, steps=150) > 0.97


def test_training_is_reproducible(source):
    encoders = [linear_encoder(), linear_encoder()]
    losses: list[list[float]] = [[], []]
    for encoder, seen in zip(encoders, losses, strict=True):
        train(encoder, InnerLasso(0.1), source, steps=5, seed=3, after_step=seen.append)
        assert not encoder.training
    assert losses[0] == losses[1]
    assert torch.equal(encoders[0].body.weight, encoders[1].body.weight)


@pytest.mark.parametrize(("learner", "n_way"), [(InnerLasso(0.1), None), (SparseSVM(0.1, 3), 3)])
def test_validation_prefers_the_factors_to_their_rotation(learner, n_way, generator):
    latents = UniformBox(3)
    source = TaskSource(latents, mix, FixedSizeSupport(3, 1), n_way=n_way)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    factors, turned = oracle(torch.eye(3)), oracle(rotation)
    errors = [
        validation_error(encoder, learner, source, seed=0, n_support=4 if n_way is None else 6) for encoder in (factors, turned)
    ]
    assert errors[0] < 0.9 * errors[1]


def test_ridge_cannot_tell_rotations_apart(generator, source):
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    errors = [validation_error(oracle(turn), InnerRidge(), source, seed=0) for turn in (torch.eye(3), rotation)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_independent_components(generator):
    uniform = UniformBox(3).draw(5000, generator)
    unmix, converged = independent_components(mix(uniform))
    assert converged
    assert score(uniform, unmix(mix(uniform))).mcc > 0.99


def test_the_normalised_error_of_a_known_predictor(generator):
    features = torch.randn(2, 40, 3, generator=generator)
    targets = features[..., :1]
    errors = InnerRidge().error(features, targets, features, targets + 1)
    expected = 40 / (targets + 1).square().sum((1, 2))
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=0)
    assert OuterL1(0.5).outer_penalty(torch.tensor([[[1.0, -2.0]], [[0.0, 1.0]]])) == 0.5 * 2


@pytest.mark.parametrize("encoder", [conv_encoder(32, 7), spatial_encoder(7)], ids=["conv", "spatial"])
def test_picture_encoders(encoder, generator):
    pictures = SceneRenderer(resolution=32)(UniformBox(7).draw(12, generator)).unflatten(0, (3, 4))
    features = encoder(pictures)
    assert features.shape == (3, 4, 7)
    features[..., 0].sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_spatial_pooling_finds_the_peak_of_a_map():
    pooling = SpatialPooling()
    maps = torch.zeros(2, 3, 5, 9)
    maps[0, 1, 4, 2] = maps[1, 2, 1, 8] = 60.0
    columns, rows, means = pooling(maps).unflatten(1, (3, 3)).unbind(1)
    torch.testing.assert_close(columns, torch.tensor([[0, -0.5, 0], [0, 0, 1]]))
    torch.testing.assert_close(rows, torch.tensor([[0, 1, 0], [0, 0, -0.5]]))
    torch.testing.assert_close(means, torch.tensor([[0, 60, 0], [0, 0, 60]]) / 45)
    moved = pooling(maps.roll((-1, 1), (2, 3)))[0, [1, 4]]
    torch.testing.assert_close(moved, torch.tensor([-0.25, 0.5]))


def test_encoders(generator):
    assert mlp_encoder(5, 2)(torch.randn(2, 6, 5, generator=generator)).shape == (2, 6, 2)
    with pytest.raises(ValueError, match="resolution must be a multiple of 16; got 40"):
        conv_encoder(40, 2)


def test_tasks_of_a_source(generator):
    source = TaskSource(Gaussian(4, 0.5), lambda z: 2 * z, BernoulliSupport(4), n_tasks=3, n_samples=20)
    batch = source.draw(generator)
    assert batch.observations.shape == (3, 20, 4)
    weights = torch.linalg.lstsq(batch.observations / 2, batch.targets).solution
    residual = batch.targets - batch.observations / 2 @ weights
    assert (residual.norm(dim=1) < 0.11 * batch.targets.norm(dim=1)).all()
    labels = TaskSource(Gaussian(4), lambda z: z, BernoulliSupport(4), n_way=5).draw(generator, 2, 7).targets
    assert labels.shape == (2, 7)
    assert labels.dtype == torch.int64


def test_tasks_may_share_their_observations(generator):
    source = TaskSource(Gaussian(4), lambda z: 2 * z, BernoulliSupport(4), n_tasks=6, n_samples=20, sharing=3)
    batch = source.draw(generator)
    assert batch.observations.shape == (2, 20, 4)
    assert batch.targets.shape == (6, 20, 1)
    features = batch.features(Encoder(nn.Identity(), 4).eval())
    assert features.shape == (6, 20, 4)
    weights = torch.linalg.lstsq(features, batch.targets).solution
    residual = batch.targets - features @ weights
    assert (residual.norm(dim=1) < 0.11 * batch.targets.norm(dim=1)).all()
    assert (weights[:3] - weights[0]).norm(dim=1).max() > 0.1
    with pytest.raises(ValueError, match="n_tasks must be a multiple of sharing = 3; got 8"):
        source.draw(generator, 8)
    with pytest.raises(ValueError, match="sharing must be at least 1 and below"):
        replace(source, sharing=0)


def test_sharing_observations_trains_the_encoder(source):
    shared = replace(source, tasks=BernoulliSupport(3), n_tasks=24, sharing=8)
    assert trained(InnerLasso(0.3), shared, steps=300) > 0.98
