"""The metrics on representations whose scores are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparsesvm import metrics


@pytest.fixture
def factors(rng):
    """Uncorrelated standardised factors, exactly: an orthogonal design."""
    raw = rng.standard_normal((400, 4))
    basis, _ = np.linalg.qr(raw - raw.mean(0))
    return basis * math.sqrt(400)


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_permuted_and_scaled_factors_score_one(factors, rng):
    codes = factors[:, [2, 0, 3, 1]] * [2.0, -0.5, 30.0, 1e-3] + [1.0, 0, -4, 7]
    assert metrics.mcc(factors, codes) == pytest.approx(1)
    assert metrics.linear_r(factors, codes) == pytest.approx(1)
    np.testing.assert_array_equal(metrics.matching(factors, codes), [1, 3, 0, 2])
    for weighted in (True, False):
        assert metrics.dci(factors, codes, weighted=weighted) == pytest.approx((1, 1, 1))


def test_a_rotation_keeps_r_and_lowers_the_rest(factors):
    angle = 0.3
    codes = factors.copy()
    codes[:, :2] = factors[:, :2] @ rotation(angle)
    assert metrics.linear_r(factors, codes) == pytest.approx(1)
    assert metrics.mcc(factors, codes) == pytest.approx((2 + 2 * math.cos(angle)) / 4)
    share = math.cos(angle) / (math.cos(angle) + math.sin(angle))
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share)) / math.log(4)
    turned = math.cos(angle) + math.sin(angle)  # importance of each turned code; the others have one
    expected = (2 * turned * (1 - entropy) + 2) / (2 * turned + 2)
    assert metrics.dci(factors, codes) == pytest.approx((expected, expected, 1))
    assert metrics.dci(factors, codes, weighted=False) == pytest.approx((1 - entropy / 2, 1 - entropy / 2, 1))


def test_a_full_mixture_has_no_disentanglement(factors):
    hadamard = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    codes = factors @ hadamard
    assert metrics.mcc(factors, codes) == pytest.approx(0.5)
    assert metrics.dci(factors, codes) == pytest.approx((0, 0, 1), abs=1e-12)


def test_half_of_a_factor_is_noise(factors):
    """Code 0 = (factor 0 + as much of an independent variable) / sqrt 2."""
    observed, noise = factors[:, :3], factors[:, 3]
    codes = observed.copy()
    codes[:, 0] = (observed[:, 0] + noise) / math.sqrt(2)
    assert metrics.mcc(observed, codes) == pytest.approx((2 + 1 / math.sqrt(2)) / 3)
    assert metrics.linear_r(observed, codes) == pytest.approx((2 + 1 / math.sqrt(2)) / 3)
    assert metrics.dci(observed, codes).informativeness == pytest.approx((2 + 0.5) / 3)


def test_dead_and_spare_codes(factors):
    with_dead = np.column_stack([factors, np.full(400, 3.7)])
    assert metrics.mcc(factors, with_dead) == pytest.approx(1)
    assert metrics.dci(factors, with_dead) == pytest.approx((1, 1, 1))
    assert metrics.dci(factors, with_dead, weighted=False) == pytest.approx((4 / 5, 1, 1))
    missing = np.column_stack([factors[:, :3], np.full(400, 3.7)])
    assert metrics.mcc(factors, missing) == pytest.approx(3 / 4)
    assert metrics.linear_r(factors, missing) == pytest.approx(3 / 4)


def test_importances_by_hand():
    table = [[3.0, 1.0], [0.0, 4.0], [0.0, 0.0]]
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    disentanglement, completeness = metrics.importance_scores(table)
    assert disentanglement == pytest.approx((1 - entropy) / 2 + 1 / 2)
    second = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8)) / math.log(3)
    assert completeness == pytest.approx(3 / 8 + 5 / 8 * (1 - second))
    plain = metrics.importance_scores(table, weighted=False)
    assert plain == pytest.approx(((1 - entropy + 1) / 3, (1 + 1 - second) / 2))
    assert metrics.importance_scores(np.zeros((2, 2))) == (0, 0)


def test_mcc_never_exceeds_r(rng):
    for _ in range(50):
        factors, mixing = rng.standard_normal((60, 3)), rng.standard_normal((3, 5))
        codes = np.tanh(factors @ mixing) + 0.3 * rng.standard_normal((60, 5))
        assert metrics.mcc(factors, codes) <= metrics.linear_r(factors, codes) + 1e-12


def test_tensors_and_arrays_agree(factors):
    codes = factors @ np.triu(np.ones((4, 4)))
    tensors = torch.from_numpy(factors).requires_grad_(), torch.from_numpy(codes).float()
    assert metrics.mcc(*tensors) == pytest.approx(metrics.mcc(factors, codes), abs=1e-6)
    assert metrics.mcc(tensors[0].bfloat16(), tensors[1].bfloat16()) == pytest.approx(metrics.mcc(factors, codes), abs=1e-2)
    assert metrics.linear_r(factors[:, ::-1].astype(">f4"), codes.tolist()) == pytest.approx(1)
    assert metrics.sparsity(torch.tensor([0.0, 1.0]).bfloat16()) == metrics.sparsity([0, 1]) == 0.5
    assert metrics.sparsity(torch.tensor([[0.0, 1.0], [0.0, 0.0]])) == 0.75


@pytest.mark.parametrize(
    ("factors", "codes", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), r"factors must have shape \(rows, columns\), neither zero; got \(3,\)"),
        (np.zeros((3, 1)), np.zeros((3, 0)), "codes must have shape"),
        (np.zeros((3, 1)), np.zeros((4, 1)), "codes must hold the samples of factors, 3; got 4"),
        (np.zeros((3, 2)), np.zeros((3, 1)), "codes must have at least as many columns as factors, 2; got 1"),
        (np.zeros((2, 1)), np.zeros((2, 1)), "must hold at least 3 samples, as any two correlate fully; got 2"),
        (np.full((3, 1), np.nan), np.zeros((3, 1)), "factors must be finite"),
        (np.full((3, 1), 1j), np.zeros((3, 1)), "factors must be real numbers without a mask; got complex128"),
        (np.ma.masked_equal([[0], [1], [2]], 1), np.zeros((3, 1)), "factors must be real numbers without a mask"),
    ],
)
def test_errors(factors, codes, message):
    with pytest.raises(ValueError, match=message):
        metrics.mcc(factors, codes)


@pytest.mark.parametrize("score", [metrics.linear_r, metrics.dci])
def test_scores_that_any_representation_would_reach_are_refused(rng, score):
    factors, codes = rng.standard_normal((6, 2)), rng.standard_normal((6, 5))
    with pytest.raises(ValueError, match=r"a smaller rank than their samples less one, 5; got 5: a regression fits any factor"):
        score(factors, codes)
    score(factors, codes[:, [0, 0, 1, 2, 3]])


@pytest.mark.parametrize("exponent", [-290, -160, 160, 290])
def test_scores_are_the_same_in_every_unit(rng, exponent):
    factors, codes = rng.standard_normal((50, 3)), rng.standard_normal((50, 4))
    for score in (metrics.mcc, metrics.linear_r, metrics.dci):
        for scaled in ((factors * 10.0**exponent, codes), (factors, codes * 10.0**exponent)):
            assert score(*scaled) == pytest.approx(score(factors, codes), rel=1e-9)
    importance = np.abs(codes)
    assert metrics.importance_scores(importance * 10.0**exponent) == pytest.approx(metrics.importance_scores(importance))


def test_negative_importances_are_refused():
    with pytest.raises(ValueError, match="importance must be >= 0"):
        metrics.importance_scores([[-1.0, 2.0]])
