"""Encoders and the learner: sizes of the literature, tasks of any sizes, use from arrays."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sparsesvm import PrototypeHead, RidgeHead, SparseSVMHead
from sparsesvm.meta import R2D2, Conv4, DataError, DropBlock, Episode, MetaLearner, ResNet12, collate


@pytest.mark.parametrize(
    ("encoder", "side", "features"),
    [
        (Conv4(3), 84, 1600),
        (Conv4(3), 32, 256),
        (Conv4(1), 28, 64),
        (Conv4(1, pool=[True, True, True, False]), 28, 576),
        (ResNet12(), 84, 16000),
        (ResNet12(block=2), 32, 2560),
        (ResNet12(average=True), 84, 640),
        (R2D2(), 84, 51200),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_feature_sizes_are_those_of_the_literature(encoder, side, features):
    channels = next(encoder.parameters()).shape[1]
    with torch.no_grad():
        assert encoder.eval()(torch.zeros(1, channels, side, side)).shape == (1, features)


def test_wrong_encoders_are_refused():
    for make, message in (
        (lambda: Conv4(1, pool=[True]), "each of the 4 blocks whether it pools; got 1"),
        (lambda: ResNet12(widths=[3]), "four blocks"),
        (lambda: R2D2(widths=[3]), "four blocks"),
        (lambda: DropBlock(1.0, 2), r"rate must lie in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_drop_block_drops_blocks_at_its_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropBlock(0.2, 3, warmup=0)
    image = torch.ones(200, 16, 12, 12)
    dropped = drop(image)
    assert dropped.mean() == pytest.approx(1, abs=1e-5)
    share = (dropped == 0).float().mean()
    assert 0.15 < share < 0.21  # blocks overlap, so a little below the rate
    zero = dropped == 0
    blocks = -nn.functional.max_pool2d(-zero.float(), 3, stride=1)  # 1 where a whole 3x3 block is gone
    covered = nn.functional.max_pool2d(nn.functional.pad(blocks, (2, 2, 2, 2)), 3, stride=1) > 0
    assert torch.equal(zero, covered)
    assert torch.equal(drop.eval()(image), image)
    slow = DropBlock(0.2, 3, warmup=1000)
    assert (slow(image) == 0).float().mean() < 0.01
    assert int(slow.steps) == 1
    assert drop.train()(image[..., :2, :2]).shape == (200, 16, 2, 2)  # a block larger than the image


def tasks(*sizes, side=8):
    """Tasks (n_way, n_shot, n_query) of noise around an image for each class."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for n_way, n_shot, n_query in sizes:
        classes = torch.rand(n_way, 1, side, side, generator=generator)
        support, query = torch.arange(n_way).repeat_interleave(n_shot), torch.arange(n_way).repeat_interleave(n_query)

        def noisy(labels, classes=classes):
            return classes[labels] + 0.05 * torch.randn(len(labels), 1, side, side, generator=generator)

        made.append(Episode(noisy(support), support, noisy(query), query, n_way))
    return made


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 32)

    def forward(self, images):
        return self.linear(images.flatten(1)).relu()


@pytest.mark.parametrize("head", [SparseSVMHead(0.2), SparseSVMHead(0.2, refit=True), RidgeHead(), PrototypeHead()])
def test_a_batch_of_unequal_tasks_gives_the_mean_of_the_losses_and_gradients_of_its_tasks(head):
    learner = MetaLearner(Plain(), head, label_smoothing=0.1)
    learner.log_dict = learner.log = lambda *_, **__: None
    made = tasks((2, 1, 3), (3, 2, 1), (2, 4, 2), (3, 1, 4))

    def loss_and_gradient(episodes):
        learner.zero_grad()
        loss = learner.training_step(collate(episodes), 0)
        loss.backward()
        return loss.detach(), learner.encoder.linear.weight.grad.clone()

    together = loss_and_gradient(made)
    apart = [loss_and_gradient([episode]) for episode in made]
    for whole, parts in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-6)
    assert learner._watch.seconds > 0


def test_an_auxiliary_head_shares_the_loss_and_leaves_predictions_alone():
    batch = collate(tasks((2, 1, 3), (3, 2, 1)))

    def learner_and_gradient(head, auxiliary_head=None):
        learner = MetaLearner(Plain(), head, auxiliary_head=auxiliary_head)
        learner.log_dict = learner.log = lambda *_, **__: None
        loss = learner.training_step(batch, 0)
        loss.backward()
        return learner, loss.detach(), learner.encoder.linear.weight.grad

    sparse, sparse_loss, sparse_gradient = learner_and_gradient(SparseSVMHead(0.2))
    _, ridge_loss, ridge_gradient = learner_and_gradient(RidgeHead())
    both, loss, gradient = learner_and_gradient(SparseSVMHead(0.2), RidgeHead())
    torch.testing.assert_close(loss, (sparse_loss + ridge_loss) / 2)
    torch.testing.assert_close(gradient, (sparse_gradient + ridge_gradient) / 2)
    assert both.auxiliary_head.log_scale.grad != 0
    for (logits, _), (alone, _) in zip(both(batch), sparse(batch), strict=True):
        assert torch.equal(logits, alone)


def test_an_optimizer_of_ones_own_spares_biases_and_head_its_weight_decay():
    learner = MetaLearner(Plain(), RidgeHead(), functools.partial(torch.optim.RAdam, lr=0.1, weight_decay=0.3), schedule={0: 0.2})
    made = learner.configure_optimizers()
    decayed, others = made["optimizer"].param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert decayed["lr"] == pytest.approx(0.1 / 50)  # the first step of the warm-up


def test_sparsity_warmup_needs_a_sparsity():
    for head in (RidgeHead(), SparseSVMHead(0.1, learn_penalties=True), SparseSVMHead(0.0), SparseSVMHead(lambda1=1.0)):
        with pytest.raises(ValueError, match="a SparseSVMHead with a fixed lambda1_ratio > 0 or with max_active < 1"):
            MetaLearner(Plain(), head, sparsity_warmup=0.5)
    for options, message in (({"sparsity_warmup": 2}, "must lie in"), ({"optimizer": "lbfgs"}, "must be adam or sgd")):
        with pytest.raises(ValueError, match=message):
            MetaLearner(Plain(), RidgeHead(), **options)


def test_arrays_are_classified_in_any_form():
    learner = MetaLearner(Plain(), SparseSVMHead(0.1))
    learner._image_shape = [1, 8, 8]
    (task,) = tasks((4, 1, 5))
    names = torch.tensor([7, 3, 12, 5])
    support = task.support_images.clamp(0, 1)
    query = task.query_images.clamp(0, 1)
    found = learner.classify(support[:, 0].numpy(), names.numpy(), query)
    assert (found == names[task.query_labels]).float().mean() > 0.9
    # Names, whole floating-point numbers and a column do as well.
    words = np.array(["red fox", "elm", "yew", "cedar"])
    named = learner.classify(support[:, 0].numpy(), words, query)
    assert named.dtype.kind == "U"
    assert dict(zip(names.tolist(), words, strict=True)) == dict(zip(found.tolist(), named, strict=True))
    torch.testing.assert_close(learner.classify(support, names[:, None].double(), query), found)
    with pytest.raises(DataError, match=r"support_labels must have shape \(4,\), one for each sample; got \(3,\)"):
        learner.classify(support, names[:3], query)
    # 24x24 pixels of uint8 are averaged down to the same image.
    large = (query * 255).round().to(torch.uint8).repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(learner.embed(large), learner.embed(query), rtol=0, atol=0.02)
    # Channels last, mirrored, of another byte order, a list of pictures: the same.
    bytes_ = (query * 255).round().to(torch.uint8).numpy()
    expected = learner.embed(bytes_)
    for form in (
        bytes_.transpose(0, 2, 3, 1),
        np.flip(np.flip(bytes_, -1).copy(), -1),
        (bytes_ / 255).astype(">f8"),
        np.broadcast_to(bytes_, bytes_.shape),
        [Image.fromarray(picture[0]) for picture in bytes_],
        torch.from_numpy(bytes_ / 255).half(),
    ):
        torch.testing.assert_close(learner.embed(form), expected, rtol=0, atol=1e-3)
    with pytest.raises(DataError, match=r"floating-point images must be from 0 to 1; got values from 0 to 255\. Divide them"):
        learner.embed(np.array([[[0.0, 255.0]]]))
    with pytest.raises(DataError, match="floating-point images must be from 0 to 1; got values from nan to nan"):
        learner.embed(np.full((1, 8, 8), np.nan))
    averaged = learner.embed(query, copies=3, seed=1)
    torch.testing.assert_close(averaged, learner.embed(query, copies=3, seed=1), rtol=0, atol=0)
    assert (averaged - learner.embed(query)).abs().max() > 1e-3
    assert learner.training
    with pytest.raises(ValueError, match="copies must be at least 0"):
        learner.embed(query, copies=-1)


@pytest.mark.parametrize("images", [torch.zeros(2, 4), torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(0, 4, 4)])
def test_arrays_that_are_no_images_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be uint8, bool or floating-point, \(n, height, width\)"):
        MetaLearner(Plain(), RidgeHead()).embed(images)


def test_images_must_have_the_channels_of_training():
    learner = MetaLearner(Plain(), RidgeHead())
    learner._image_shape = [1, 8, 8]
    with pytest.raises(ValueError, match="images must have 1 channels, as in training; got 3"):
        learner.embed(torch.zeros(1, 3, 8, 8))


class Hidden(nn.Module):
    """A head that the learner does not know: it gets a copy of the queries."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *arguments, **options):
        assert arguments[0].dim() == 3
        return self.head(*arguments, **options)


def test_scoring_all_images_is_scoring_the_queries():
    (episode,) = tasks((4, 1, 4))
    batch = collate([episode], support_sets=3)
    assert len(batch.images) <= 1.5 * batch.query.shape[1]
    found = []
    for wrap in (lambda head: head, Hidden):
        learner = MetaLearner(Plain(), wrap(RidgeHead(normalize="each")), auxiliary_head=wrap(RidgeHead()))
        learner.log_dict = learner.log = lambda *_, **__: None
        loss = learner.training_step(batch, 0)
        loss.backward()
        found.append((loss.detach(), learner.encoder.linear.weight.grad))
    for known, hidden in zip(*found, strict=True):
        torch.testing.assert_close(known, hidden, rtol=1e-4, atol=1e-6)
