"""Episodes: the same for a number everywhere, feasible or refused, and any sizes in one batch."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from sparsesvm.meta import (
    Augment,
    DataError,
    Digits,
    Episode,
    EpisodeData,
    EpisodeDataset,
    EpisodeNumbers,
    EpisodeSampler,
    ImageSet,
    Setting,
    collate,
    rotate_classes,
)
from sparsesvm.meta.batches import IGNORE

SIZES = [3, 9, 5, 7, 20, 4]
LABELS = np.repeat(np.arange(6), SIZES)


def sampler(**changes):
    options = {"n_way": 3, "n_shot": 1, "n_query": 2, "seed": 0} | changes
    return EpisodeSampler(LABELS, **options)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 2**31),
    st.tuples(st.integers(2, 4), st.integers(4, 6)),
    st.booleans(),
    st.booleans(),
)
def test_draws_hold_what_was_asked_for(number, seed, ways, balanced, rotations):
    chosen = sampler(n_way=ways, n_shot=(1, 2), n_query=1, seed=seed, balanced=balanced, rotations=rotations)
    draw = chosen.draw(number)
    n_way = len(draw.classes)
    assert ways[0] <= n_way <= ways[1]
    pairs = set(zip(draw.classes.tolist(), draw.quarters.tolist(), strict=True))
    assert len(pairs) == n_way  # a class in two orientations is two classes
    shots = np.bincount(draw.support_labels, minlength=n_way)
    assert shots.min() >= 1
    assert shots.max() <= 2
    assert not balanced or len(set(shots)) == 1
    for label, c in enumerate(draw.classes):
        support, query = draw.support[draw.support_labels == label], draw.query[draw.query_labels == label]
        assert len(query) == 1
        assert (LABELS[support] == c).all()
        assert (LABELS[query] == c).all()
        assert len(set(support) | set(query)) == len(support) + len(query)
    assert rotations or not draw.quarters.any()


def test_an_episode_is_the_same_wherever_and_whenever_it_is_drawn():
    one, other = sampler(), sampler()
    forwards = [one.draw(n) for n in range(5)]
    backwards = [other.draw(n) for n in reversed(range(5))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(forwards[0].support, forwards[1].support)
    assert not np.array_equal(forwards[0].support, sampler(seed=1).draw(0).support)


def test_all_classes_and_orientations_are_drawn():
    draws = [sampler(rotations=True).draw(n) for n in range(200)]
    seen = {(int(c), int(q)) for d in draws for c, q in zip(d.classes, d.quarters, strict=True)}
    assert len(seen) == 24


def test_episodes_within_a_group_stay_there():
    chosen = sampler(groups=[0, 0, 0, 1, 1, 1], within=1.0, rotations=True)
    for number in range(30):
        draw = chosen.draw(number)
        assert len(set(draw.classes // 3)) == 1
        assert len(set(draw.classes)) == len(draw.classes)
        assert len(set(draw.quarters)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_way": 7}, r"n_way = 7 classes needs as many; the data has 6\. Lower n_way or add classes"),
        ({"n_way": 25, "rotations": True}, r"the data has 6, 24 with their rotations"),
        ({"n_shot": (1, 2)}, r"n_shot \+ n_query = 2 \+ 2 = 4 samples of a class are needed; class 0 has 3\. Lower them or drop"),
        ({"within": 0.5, "groups": [0, 1, 1, 2, 2, 2], "n_way": 4}, r"a group of n_way = 4 classes; the largest has 3"),
    ],
)
def test_impossible_episodes_are_refused_with_both_numbers(changes, message):
    with pytest.raises(DataError, match=message):
        sampler(**changes)


def test_the_class_with_too_few_images_is_named_as_its_user_names_it():
    images = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 0, 0, 1], ["red fox", "cedar"])
    with pytest.raises(DataError, match=r"= 2 samples of a class are needed; class cedar has 1\. Lower them or drop the class"):
        Setting(2, 1, 1).sampler(images, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_way": 1}, r"n_way must be a number of at least 2"),
        ({"n_shot": 0}, r"n_shot must be a number of at least 1"),
        ({"n_query": (3, 2)}, r"n_query .* got \(3, 2\)"),
        ({"within": 1.5}, r"within must lie in \[0, 1\]; got 1.5"),
        ({"within": 0.5}, r"needs groups of classes, as alphabets are; these data have none"),
        ({"within": 0.5, "groups": [0, 1]}, r"each of the 6 classes; got 2"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        sampler(**changes)


def test_labels_are_integers_or_names():
    named = EpisodeSampler(np.array(list("abcdef"))[LABELS], n_way=3, n_shot=1, n_query=2)
    numbered, drawn = sampler().draw(3), named.draw(3)
    np.testing.assert_array_equal(drawn.support, numbered.support)
    np.testing.assert_array_equal(drawn.classes, np.array(list("abcdef"))[numbered.classes])
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(n,\)"):
        EpisodeSampler(LABELS.astype(float), n_way=2, n_shot=1, n_query=1)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_out_the_episodes_of_an_epoch(processes):
    for epoch in (0, 3):
        numbers = [EpisodeNumbers(8, fresh=True, num_replicas=processes, rank=rank) for rank in range(processes)]
        for one in numbers:
            one.set_epoch(epoch)
        assert sorted(n for one in numbers for n in one) == list(range(8 * epoch, 8 * epoch + 8))
        # A step sees the tasks that one process with a batch for all sees.
        step = [next(iter(one)) for one in numbers]
        assert step == list(range(8 * epoch, 8 * epoch + processes))
    fixed = EpisodeNumbers(8, fresh=False)
    fixed.set_epoch(3)
    assert list(fixed) == list(range(8))


def test_processes_must_divide_the_episodes():
    with pytest.raises(ValueError, match=r"positive multiple of the 4 processes; got 6\. Use 8"):
        EpisodeNumbers(6, fresh=True, num_replicas=4)


def images(side=6):
    n = len(LABELS)
    return torch.arange(n * side * side).reshape(n, 1, side, side).remainder(256).to(torch.uint8)


def test_workers_do_not_change_the_episodes():
    data = EpisodeDataset(ImageSet(images(), LABELS, list("abcdef")), sampler(), Augment(shift=0.2, rotate=20, elastic=0.05))
    numbers = EpisodeNumbers(6, fresh=True)
    alone = list(DataLoader(data, batch_size=2, sampler=numbers, collate_fn=collate))
    workers = min(2, len(os.sched_getaffinity(0)))  # torch warns about more than the cores allow
    shared = list(DataLoader(data, batch_size=2, sampler=numbers, collate_fn=collate, num_workers=workers))
    for a, b in zip(alone, shared, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def turned(picture):
    """As a camera stores it that was held on its side."""
    tags = Image.Exif()
    tags[0x0112] = 6
    buffer = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=tags)
    return Image.open(buffer)


def test_any_data_set_of_image_and_label_will_do():
    grey = images()
    draw = sampler().draw(0)
    pictures_of_pillow = [Image.fromarray(picture[0].numpy()) for picture in grey]
    for pictures, expected in (
        (grey.float() / 255, grey / 255),
        (grey.double() / 255 - 0.5, grey / 255 - 0.5),  # standardised
        (grey, grey / 255),
        (grey.numpy()[:, 0, ::-1], grey.flip(2) / 255),
        (pictures_of_pillow, grey / 255),
        ([picture.convert("P") for picture in pictures_of_pillow], grey.expand(-1, 3, -1, -1) / 255),  # palettes have colours
        (grey > 99, (grey > 99).float()),
        ([turned(picture) for picture in pictures_of_pillow], grey / 255),
    ):
        episode = EpisodeDataset(list(zip(pictures, LABELS, strict=True)), sampler())[0]
        torch.testing.assert_close(episode.query_images, expected[draw.query])
    assert episode.n_way == 3
    for pictures, message in (
        (grey.float(), r"must be from 0 to 1, or standardised; got values from .* to 2\d\d\. Divide them by 255"),
        (grey.long(), r"images must be uint8, bool or floating-point, .* got torch.int64 .*astype"),
        (grey.numpy().astype(np.uint16), r"images must be uint8, bool or floating-point, .* got torch.uint16"),
        ([p.resize((5 + i % 2, 5)) for i, p in enumerate(pictures_of_pillow)], r"images must be of one size.*\(5, 5\), \(5, 6\)"),
        ([p.convert("F") for p in pictures_of_pillow], "pixels are floating-point, signed or of 32 bits"),
        (["a.png"] * len(LABELS), "numbers are needed; got an array of <U5"),
    ):
        with pytest.raises(DataError, match=message):
            EpisodeDataset(list(zip(pictures, LABELS, strict=True)), sampler())[0]


def test_a_batch_holds_tasks_of_any_sizes_and_weighs_padding_zero():
    def task(n_way, support, query, value):
        return Episode(
            torch.full((support, 1, 2, 2), value),
            torch.arange(support) % n_way,
            torch.full((query, 1, 2, 2), value + 0.5),
            torch.arange(query) % n_way,
            n_way,
        )

    batch = collate([task(2, 2, 5, 1.0), task(3, 6, 3, 2.0)])
    assert len(batch.images) == 16  # none for padding
    assert batch.support.shape == (2, 6)
    assert batch.query.shape == (2, 5)
    assert batch.support_weight.tolist() == [[1, 1, 0, 0, 0, 0], [1] * 6]
    assert (batch.query_labels == IGNORE).sum(1).tolist() == [0, 2]
    assert batch.n_way.tolist() == [2, 3]
    for row, value in enumerate((1.0, 2.0)):
        assert (batch.images[batch.support[row]][batch.support_weight[row] > 0] == value).all()
        assert (batch.images[batch.query[row]][batch.query_labels[row] != IGNORE] == value + 0.5).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
def test_support_sets_exchange_the_images_of_an_episode(seed, support_sets, balanced):
    # Shots that differ from class to class, and episodes that differ in size.
    counts = {"n_way": (2, 5), "n_shot": (1, 2), "n_query": (4, 6), "balanced": balanced, "seed": seed}
    labels = np.arange(6).repeat(8)
    pictures = ImageSet(torch.arange(48, dtype=torch.uint8).view(48, 1, 1, 1), labels, list("abcdef"))
    data = EpisodeDataset(pictures, EpisodeSampler(labels, **counts))
    episodes = [data[0], data[1]]
    batch, plain = collate(episodes, support_sets), collate(episodes)
    assert torch.equal(batch.images, plain.images)
    for row, episode in enumerate(episodes):
        seen = []
        for task in range(row * support_sets, (row + 1) * support_sets):
            kept, asked = batch.support_weight[task] > 0, batch.query_labels[task] != IGNORE
            support, query = batch.support[task][kept], batch.query[task][asked]
            # Every task holds the images of the episode once, each under the label of its class, and as many shots per class.
            both = torch.cat([support, query])
            own = torch.cat([episode.support_images, episode.query_images]).flatten()
            assert torch.equal(batch.images[both].flatten().sort().values, own.sort().values)
            found = torch.cat([batch.support_labels[task][kept], batch.query_labels[task][asked]])
            label_of = dict(zip(own.tolist(), torch.cat([episode.support_labels, episode.query_labels]).tolist(), strict=True))
            assert [label_of[value] for value in batch.images[both].flatten().tolist()] == found.tolist()
            assert torch.equal(batch.support_labels[task][kept].bincount(), episode.support_labels.bincount())
            assert batch.n_way[task] == episode.n_way
            seen += support.tolist()
        assert len(seen) == len(set(seen)) == support_sets * len(episode.support_labels)
        n_support = len(episode.support_labels)
        assert batch.support[row * support_sets, :n_support].tolist() == plain.support[row, :n_support].tolist()


def test_support_sets_need_the_images():
    for support_sets, n_shot, n_query in ((3, 1, 2), (2, 2, 2)):
        EpisodeData(Digits(), 3, n_shot, n_query, support_sets).setup("fit")
    with pytest.raises(DataError, match=r"4 support sets of n_shot = 1 need n_query of at least 3; got 2\. Lower"):
        EpisodeData(Digits(), 3, 1, 2, 4).setup("fit")
    with pytest.raises(ValueError, match="support_sets must be"):
        EpisodeData(Digits(), support_sets=0)


def test_images_of_two_sizes_cannot_share_a_batch():
    small, large = (
        Episode(i, torch.zeros(1, dtype=int), i, torch.zeros(1, dtype=int), 2) for i in (torch.zeros(1, 1, n, n) for n in (2, 3))
    )
    with pytest.raises(DataError, match=r"one size; got \[\(1, 2, 2\), \(1, 3, 3\)\]"):
        collate([small, large])


def test_evaluation_batches_hold_each_image_once():
    data = EpisodeDataset(ImageSet(images(), LABELS, list("abcdef")), sampler())
    draws = [data.sampler.draw(n) for n in range(20)]
    shared = data.shared_batch(draws)
    assert len(shared.images) <= len(LABELS)
    for row, draw in enumerate(draws):
        separate = collate([data[row]])
        torch.testing.assert_close(shared.images[shared.query[row]], separate.images[separate.query[0]])
        assert shared.support_labels[row].tolist() == draw.support_labels.tolist()


def test_rotated_classes_are_quarter_turns():
    picture = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    turned = rotate_classes(picture, torch.arange(4))
    for quarter in range(4):
        torch.testing.assert_close(turned[quarter], picture[quarter].rot90(quarter, (-2, -1)))
    data = EpisodeDataset(ImageSet(images()[:, :, :3], LABELS, list("abcdef")), sampler(rotations=True))
    with pytest.raises(DataError, match="square images; got 3 x 6"):
        [data[number] for number in range(5)]


def test_augmentation_moves_turns_and_mirrors_as_said(generator):
    picture = torch.rand(8, 3, 16, 16, generator=generator)
    torch.testing.assert_close(Augment()(picture, generator), picture)
    mirrored = Augment(flip=True)(picture, torch.Generator().manual_seed(1))
    same = (mirrored - picture).abs().amax((1, 2, 3)) < 1e-5
    flipped = (mirrored - picture.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ flipped).all()
    assert same.any()
    assert flipped.any()
    # The middle of a disc stays where it is under all but a shift, by at most that much.
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = (((x - 15.5) ** 2 + (y - 15.5) ** 2) < 25).float().expand(50, 1, 32, 32)

    def middle(images):
        weight = images / images.sum((2, 3), keepdim=True)
        return torch.stack([(weight * x).sum((1, 2, 3)), (weight * y).sum((1, 2, 3))], 1) - 15.5

    turned = Augment(rotate=40, scale=0.2, shear=0.2)(disc, generator)
    assert middle(turned).abs().max() < 1e-3
    moved = middle(Augment(shift=0.1)(disc, generator)).abs().max()
    assert 2 < moved <= 3.2 + 1e-3
    area = turned.sum((1, 2, 3)) / disc.sum((1, 2, 3))
    assert 0.6 < area.min() < 0.9
    assert 1.1 < area.max() < 1.6


def test_augmentation_is_seeded_and_checked(generator):
    picture = torch.rand(2, 1, 8, 8, generator=generator)
    wild = Augment(shift=0.2, rotate=30, scale=0.2, shear=0.2, elastic=0.1, flip=True, brightness=0.4, reflect=True)
    one, other = (wild(picture, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (wild(picture, torch.Generator().manual_seed(4)) != one).any()
    assert wild(picture[:0]).shape == (0, 1, 8, 8)
    with pytest.raises(ValueError, match="rotate must be finite and >= 0; got -1"):
        Augment(rotate=-1)


def test_a_change_of_classes_is_common_to_their_images_and_makes_new_classes(generator):
    picture = torch.rand(1, 1, 12, 12, generator=generator).expand(6, 1, 12, 12)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    change = Augment(rotate=30, scale=0.3, shear=0.3, elastic=0.05)
    changed = Augment()(picture, generator, of_classes=change, labels=labels)
    torch.testing.assert_close(changed[:3], changed[3:], rtol=0, atol=0)
    assert (changed[0] - changed[1]).abs().max() > 0.05
    assert (changed[0] - picture[0]).abs().max() > 0.05
    # With the change of each image on top it is the change of an image already changed: two half turns are none.
    turned = Augment(rotate=1e-9)(picture.flip((2, 3)), generator, of_classes=Augment(), labels=labels)
    torch.testing.assert_close(turned, picture.flip((2, 3)), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="of_classes needs labels"):
        Augment()(picture, generator, of_classes=change)
    data = EpisodeDataset(ImageSet(images(), LABELS, list("abcdef")), sampler(), class_augment=change, class_augment_share=0.5)
    plain = EpisodeDataset(ImageSet(images(), LABELS, list("abcdef")), sampler())
    same = [torch.equal(data[number].query_images, plain[number].query_images) for number in range(40)]
    assert 8 < sum(same) < 32
    with pytest.raises(ValueError, match=r"class_augment_share must lie in \[0, 1\]; got 2"):
        EpisodeDataset(data.dataset, sampler(), class_augment_share=2)
