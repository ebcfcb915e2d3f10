"""Task laws have the supports and coefficients they promise; the checker names what violates its condition."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsesvm.bilevel.tasks import (
    BernoulliSupport,
    BlockSupport,
    DenseCoefficients,
    FiniteCoefficients,
    FixedSizeSupport,
    check_supports,
    noisy_targets,
)

LAWS = [
    BernoulliSupport(6),
    BernoulliSupport(6, 0.05),
    FixedSizeSupport(6, 2),
    BlockSupport(6, 2),
    DenseCoefficients(6),
    DenseCoefficients(6, "laplace"),
    FiniteCoefficients(BernoulliSupport(6), 3),
    FiniteCoefficients(BernoulliSupport(6), 3, shared=True),
]


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_draws_are_of_the_law(law, generator):
    weights = law.draw(5000, generator, n_outputs=2)
    assert weights.shape == (5000, 2, 6)
    found = weights.ne(0).any(1)
    assert found.any(1).all()
    listed = {tuple(row) for row in law.supports().tolist()}
    assert {tuple(row) for row in found.tolist()} <= listed
    again = law.draw(5000, torch.Generator().manual_seed(0), n_outputs=2)
    assert torch.equal(weights, again)


def test_the_empty_support_is_mended_task_by_task(generator):
    """With probability p each, the size of a support given that it is not empty is binomial; an empty one becomes one factor."""
    p, m = 0.1, 6
    sizes = BernoulliSupport(m, p).draw_supports(200_000, generator).sum(1)
    empty = (1 - p) ** m
    single = m * p * (1 - p) ** (m - 1)
    assert (sizes == 1).double().mean() == pytest.approx(empty + single, abs=5e-3)
    assert sizes.double().mean() == pytest.approx(m * p + empty, abs=5e-3)
    assert BernoulliSupport(m, 0.0).draw_supports(6000, generator).double().mean(0).sub(1 / 6).abs().max() < 0.03
    half = BernoulliSupport(m).draw_supports(100_000, generator)
    assert half.sum(1).double().mean() == pytest.approx(3 + 1 / 64, abs=0.02)


def test_coefficients_have_unit_variance(generator):
    laplace = DenseCoefficients(4, "laplace").draw(100_000, generator)
    assert laplace.var() == pytest.approx(1, abs=0.03)
    assert (laplace**4).mean() == pytest.approx(6, abs=0.5)  # a Gaussian has 3
    assert DenseCoefficients(4).draw(100_000, generator).pow(4).mean() == pytest.approx(3, abs=0.1)


def test_few_coefficient_vectors(generator):
    law = FiniteCoefficients(FixedSizeSupport(4, 2), 3)
    weights = law.draw(5000, generator).squeeze(1)
    assert len({tuple(row) for row in weights.tolist()}) == 6 * 3
    other = FiniteCoefficients(FixedSizeSupport(4, 2), 3, seed=1).draw(5000, generator).squeeze(1)
    assert not {tuple(row) for row in weights.tolist()} & {tuple(row) for row in other.tolist()}


def test_shared_coefficient_vectors_are_restricted_to_the_support(generator):
    weights = FiniteCoefficients(BernoulliSupport(6), 1, shared=True).draw(5000, generator).squeeze(1)
    assert [len(set(column[column != 0].tolist())) for column in weights.mT] == [1] * 6
    assert len({tuple(row) for row in weights.tolist()}) == 63


def least_norm(weights, n_starts=16, steps=800):
    """Least mean L1 norm of the weights on codes h = A z of unit variance, for independent z, from random starts."""
    bases = torch.randn(n_starts, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([bases], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        norms = torch.linalg.solve(torch.nn.functional.normalize(bases, dim=-1).mT, weights.mT).abs().sum(1).mean(1)
        optimizer.zero_grad()
        norms.sum().backward()
        optimizer.step()
        schedule.step()
    return norms.detach().min()


def test_shared_vectors_are_sparser_in_other_codes_and_vectors_of_each_support_are_not():
    supports = BernoulliSupport(6).supports()
    for shared in (True, False):
        law = FiniteCoefficients(BernoulliSupport(6), 1, shared=shared)
        weights = (law.draw_coefficients(supports, 1, torch.Generator()).squeeze(1) * supports).double()
        found, true = least_norm(weights), weights.abs().sum(1).mean()
        assert found < 0.99 * true if shared else found > 0.999 * true


def test_the_checker_flags_exactly_what_violates_the_condition():
    assert check_supports(BernoulliSupport(6).supports()).satisfied
    assert check_supports(FixedSizeSupport(6, 3).supports()).satisfied
    assert check_supports(FiniteCoefficients(BernoulliSupport(6), 1).supports()).satisfied
    for block in (2, 3, 6):
        report = check_supports(BlockSupport(6, block).supports())
        assert not report.satisfied
        assert report.entangled == {j: tuple(i for i in range(6) if i // block == j // block and i != j) for j in range(6)}
    assert check_supports(DenseCoefficients(3).supports()).entangled == {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    assert check_supports(FixedSizeSupport(1, 1).supports()).satisfied


def test_the_checker_names_the_factor():
    report = check_supports([{0, 1}, {1}, {2}, {0, 2}], n_factors=3)
    assert report.satisfied
    report = check_supports([{0, 1}, {1}, {2}], n_factors=3)  # factor 0 never without factor 1
    assert report.entangled == {1: (0,)}
    assert str(report) == "sufficient support variability is violated: no task uses factor 0 without factor 1"
    assert str(check_supports([{0}, {1}], 2)) == "sufficient support variability holds"


@given(st.integers(1, 5).flatmap(lambda m: st.tuples(st.just(m), st.lists(st.sets(st.integers(0, m - 1)), max_size=6))))
def test_the_checker_agrees_with_the_definition(drawn):
    n_factors, supports = drawn
    report = check_supports(supports, n_factors)
    for j in range(n_factors):
        union = set(itertools.chain.from_iterable(s for s in supports if j not in s))
        assert (union == set(range(n_factors)) - {j}) == (j not in report.entangled)


def test_noise_has_the_asked_energy(generator):
    factors, weights = torch.randn(3, 40, 5, generator=generator), torch.randn(3, 2, 5, generator=generator)
    targets = noisy_targets(factors, weights, 0.1, generator)
    signal = factors @ weights.mT
    torch.testing.assert_close((targets - signal).norm(dim=1), 0.1 * signal.norm(dim=1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BernoulliSupport(0), ValueError, "n_factors must be at least 1"),
        (lambda: BernoulliSupport(3, 1.5), ValueError, r"probability must lie in \[0, 1\]; got 1.5"),
        (lambda: FixedSizeSupport(3, 4), ValueError, "size must be at most n_factors = 3; got 4"),
        (lambda: BlockSupport(6, 4), ValueError, "block must divide n_factors = 6; got 4"),
        (lambda: DenseCoefficients(3, "cauchy"), ValueError, 'law must be "gaussian" or "laplace"'),
        (lambda: FiniteCoefficients(BernoulliSupport(3), 0), ValueError, "n_vectors must be at least 1"),
        (lambda: FiniteCoefficients(BernoulliSupport(30), 1), ValueError, "n_factors must be at most 20"),
        (lambda: BernoulliSupport(3).draw(0, torch.Generator()), ValueError, "n_tasks must be at least 1"),
        (lambda: check_supports([{0}]), ValueError, "n_factors is required"),
        (lambda: check_supports([{3}], 3), ValueError, r"supports must hold factors in \[0, 3\); got \[3\]"),
        (lambda: check_supports(torch.ones(2, 3)), TypeError, "supports must be a bool tensor"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
