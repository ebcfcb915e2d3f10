"""The solver inside torch: compile, vmap, functional transforms, export, autocast, operator checks."""

from __future__ import annotations

import pytest
import torch

import sparsesvm
from benchmarks.problems import episode

N_WAY = 4


@pytest.fixture
def features(rng):
    return torch.stack([torch.from_numpy(episode(rng, N_WAY, 12, 20)[0]) for _ in range(3)])


LABELS = torch.arange(12) % N_WAY


def weights(features):
    return sparsesvm.solve(features, LABELS.expand(features.shape[:-1]), lambda1=0.2, lambda2=0.1, n_way=N_WAY, tol=1e-10).weights


def loss(features):
    return weights(features).square().sum()


def gradient(features):
    leaf = features.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def test_compiled_without_graph_breaks(features):
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaf = features.clone().requires_grad_()
    value = compiled(leaf)
    (found,) = torch.autograd.grad(value, leaf)
    assert torch.equal(value, loss(features))
    assert torch.equal(found, gradient(features))


def test_vmap_is_the_batch(features):
    assert torch.equal(torch.func.vmap(weights)(features), weights(features))
    assert torch.equal(torch.func.vmap(weights, in_dims=1)(features.movedim(0, 1)), weights(features))


def test_func_grad_and_its_vmap(features):
    assert torch.equal(torch.func.grad(loss)(features), gradient(features))
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(features), gradient(features))


def test_jacobians_of_both_modes_agree(features):
    forward, backward = torch.func.jacfwd(weights)(features[0]), torch.func.jacrev(weights)(features[0])
    assert backward.abs().max() > 0
    torch.testing.assert_close(forward, backward, rtol=0, atol=1e-11 * float(backward.abs().max()))


def test_functional_call_reaches_the_parameters(features, generator):
    head = sparsesvm.SparseSVMHead(0.2, learn_penalties=True)
    parameters = dict(head.named_parameters())

    def objective(parameters):
        logits = torch.func.functional_call(head, parameters, (features, features, LABELS.expand(3, -1), N_WAY))
        return logits.square().sum()

    gradients = torch.func.grad(objective)(parameters)
    assert set(gradients) == {"log_scale", "log_lambda1_ratio", "log_lambda2"}
    assert all(found != 0 for found in gradients.values())


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(20, 30).double()
        self.head = sparsesvm.SparseSVMHead(0.1, scale=1.0)

    def forward(self, query, support, labels):
        return self.head(self.encoder(query), self.encoder(support), labels, N_WAY)


def test_export(features):
    model = Model().eval()
    arguments = (features, features, LABELS.expand(3, -1).contiguous())
    exported = torch.export.export(model, arguments)
    torch.testing.assert_close(exported.module()(*arguments), model(*arguments))


def test_autocast_solves_in_single_precision(features):
    support = features.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = weights(support)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weights(support.float()))
    leaf = support.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_operators_pass_torchs_own_checks(features):
    from sparsesvm import _ops

    batch = features.shape[0]
    weight, lambda1, lambda2 = (
        torch.full(s, v, dtype=torch.float64) for s, v in (((batch, 12), 1.0), ((batch,), 0.2), ((batch,), 0.1))
    )
    labels = LABELS.expand(batch, -1).contiguous()
    torch.library.opcheck(_ops.solve_op, (features, labels, weight, lambda1, lambda2, None, N_WAY, 1, 0.0, 1e-6, 100, "ignore"))


def test_training_step_moves_every_parameter(features):
    model = Model()
    logits = model(features, features, LABELS.expand(3, -1))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.repeat(3)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    assert model.encoder.weight.grad.abs().max() > 0
