"""Laws of factors, mixings, rendered scenes and readers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from sparsesvm.factors import (
    SCENE_FACTORS,
    BoxGaussian,
    RandomMLP,
    SceneRenderer,
    UniformBox,
    grid_probabilities,
    load_3dshapes,
    load_dsprites,
    load_mpi3d,
    load_omniglot,
    load_spoken_digits,
)
from sparsesvm.factors.latents import HALF_WIDTH, correlation_matrix


def test_uniform_factors_are_standardised(generator):
    factors = UniformBox(3).draw(200_000, generator)
    torch.testing.assert_close(factors.mT.cov(), torch.eye(3), atol=0.02, rtol=0)
    assert factors.abs().max() <= HALF_WIDTH


@pytest.mark.parametrize("structure", ["equal", "chain"])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_box_law_has_its_density(generator, rho, structure):
    """The log of the histogram differs from the Gaussian's log density by a constant; on a grid, probabilities agree."""
    factors = BoxGaussian(2, rho, structure).draw(400_000, generator)
    edges = torch.linspace(-HALF_WIDTH, HALF_WIDTH, 9)
    counts = torch.histogramdd(factors, [edges, edges])[0].flatten()
    centres = (edges[1:] + edges[:-1]) / 2
    fine = (centres.unsqueeze(1) + torch.linspace(-0.5, 0.5, 41)[:-1] * (edges[1] - edges[0])).flatten()
    probabilities = grid_probabilities(torch.cartesian_prod(fine, fine), rho, structure)
    cells = probabilities.reshape(8, 40, 8, 40).sum((1, 3)).flatten()
    torch.testing.assert_close(counts.double() / 400_000, cells, atol=3e-3, rtol=0)
    assert probabilities.sum() == pytest.approx(1)


def test_correlation_structures():
    chain = torch.tensor([[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]], dtype=torch.float64)
    torch.testing.assert_close(correlation_matrix(3, 0.5, "chain"), chain)
    assert correlation_matrix(3, 0.5)[0, 2] == 0.5
    with pytest.raises(ValueError, match="rho must lie in"):
        BoxGaussian(3, 1.0)
    with pytest.raises(ValueError, match="rho must be >= 0"):
        BoxGaussian(3, -0.1)
    with pytest.raises(ValueError, match='structure must be "equal" or "chain"'):
        BoxGaussian(3, 0.5, "ring")


def test_the_mixing_is_fixed_injective_and_not_linear(generator):
    factors = UniformBox(4).draw(2000, generator).double()
    mixing = RandomMLP(4, 16, seed=3).double()
    torch.testing.assert_close(mixing(factors), RandomMLP(4, 16, seed=3).double()(factors))
    assert not any(parameter.requires_grad for parameter in mixing.parameters())
    jacobians = torch.func.vmap(torch.func.jacrev(mixing))(factors[:100])
    assert torch.linalg.svdvals(jacobians)[:, -1].min() > 1e-3
    linear = LinearRegression().fit(mixing(factors).numpy(), factors.numpy()).score(mixing(factors).numpy(), factors.numpy())
    assert linear < 0.99
    with pytest.raises(ValueError, match="n_outputs must be at least n_factors = 4"):
        RandomMLP(4, 3)


def test_scenes(generator):
    renderer = SceneRenderer(resolution=24)
    factors = UniformBox(7).draw(50, generator)
    pictures = renderer(factors)
    assert pictures.shape == (50, 3, 24, 24)
    assert 0 <= pictures.min() <= pictures.max() <= 1
    assert torch.equal(pictures, renderer(factors))
    torch.testing.assert_close(renderer(factors[:1]), pictures[:1])


@pytest.mark.parametrize("number", range(len(SCENE_FACTORS)))
def test_every_factor_moves_the_picture_and_none_is_lost(number):
    """Along a factor's range pictures stay apart, and the closer the factors the closer the pictures: nothing wraps around."""
    renderer = SceneRenderer()
    factors = torch.zeros(9, 7)
    factors[:, number] = torch.linspace(-HALF_WIDTH, HALF_WIDTH, 9)
    pictures = renderer(factors).flatten(1)
    distances = torch.cdist(pictures, pictures)
    assert distances[~torch.eye(9, dtype=torch.bool)].min() > 0.3
    neighbours = distances.diagonal(1)
    assert distances[0, -1] > neighbours.max()


def test_the_jacobian_of_a_scene_has_full_rank(generator):
    renderer = SceneRenderer(resolution=16).double()
    factors = UniformBox(7).draw(20, generator).double()
    jacobians = torch.func.vmap(torch.func.jacrev(lambda z: renderer(z.unsqueeze(0)).flatten()))(factors)
    assert jacobians.isfinite().all()
    assert torch.linalg.svdvals(jacobians)[:, -1].min() > 1e-3


def test_scene_colours_and_positions():
    renderer = SceneRenderer(["x", "object_hue"], resolution=33)
    left, right = renderer(torch.tensor([[-HALF_WIDTH, -HALF_WIDTH], [HALF_WIDTH, -HALF_WIDTH]]))
    torch.testing.assert_close(left, right.flip(-1), atol=1e-5, rtol=0)
    column = round((-0.4 + 1) / 2 * 33 - 0.5)
    torch.testing.assert_close(left[:, 16, column], torch.tensor([1.0, 0.0, 0.0]), atol=1e-2, rtol=0)
    for wrong in ([], ["x", "x"], ["colour"]):
        with pytest.raises(ValueError, match="factors must be different names out of x, y"):
            SceneRenderer(wrong)
    with pytest.raises(ValueError, match=r"factors must have shape \(n, 2\); got \(1, 3\)"):
        renderer(torch.zeros(1, 3))


def test_3dshapes_file(tmp_path, rng):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    labels = np.stack(np.meshgrid([0.0, 0.5], [0.0, 0.1], [1.0, 2], [0.75, 1.25], [0, 1, 2], [-30, 30], indexing="ij"), -1)
    labels = labels.reshape(-1, 6)
    images = rng.integers(0, 256, (len(labels), 64, 64, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = images, labels
    data = load_3dshapes(tmp_path / "3dshapes.h5")
    assert data.images.shape == (96, 3, 64, 64)
    assert data.names[0] == "floor hue"
    np.testing.assert_array_equal(data.images[5, 1], images[5, :, :, 1])
    torch.testing.assert_close(data.factors.mT.cov(correction=0), torch.eye(6), atol=1e-5, rtol=0)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = labels
    with pytest.raises(ValueError, match="must hold an array 'images'; it holds x"):
        load_3dshapes(tmp_path / "other.h5")


def test_3dshapes_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match="pip install h5py"):
        load_3dshapes(tmp_path / "3dshapes.h5")


def test_dsprites_file(tmp_path):
    values = np.stack(np.meshgrid([1.0], [1.0, 2, 3], [0.5, 1], [0, 3.0], [0, 1.0], [0, 0.5, 1], indexing="ij"), -1).reshape(
        -1, 6
    )
    images = (np.arange(len(values))[:, None, None] % 2 * np.ones((1, 64, 64))).astype(np.uint8)
    np.savez(tmp_path / "dsprites.npz", imgs=images, latents_values=values)
    data = load_dsprites(tmp_path / "dsprites.npz")
    assert data.images.shape == (72, 1, 64, 64)
    assert data.images.unique().tolist() == [0, 255]
    assert data.names == ("shape", "scale", "orientation", "x", "y")
    assert data.factors[:, 0].unique().numel() == 3
    np.savez(tmp_path / "short.npz", imgs=images, latents_values=values[:, :3])
    with pytest.raises(ValueError, match=r"must hold 5 factors for each of 72 images; got shape \(72, 2\)"):
        load_dsprites(tmp_path / "short.npz")


def test_mpi3d_file(tmp_path):
    count = 4 * 4 * 2 * 3 * 3 * 40 * 40
    np.savez(tmp_path / "mpi3d.npz", images=np.zeros((count, 1, 1, 3), dtype=np.uint8))
    data = load_mpi3d(tmp_path / "mpi3d.npz")
    assert data.images.shape == (count, 3, 1, 1)
    assert [data.factors[:, j].unique().numel() for j in range(7)] == [4, 4, 2, 3, 3, 40, 40]
    assert data.factors[1, 6] > data.factors[0, 6]  # the last factor runs fastest
    assert torch.equal(data.factors[1, :6], data.factors[0, :6])
    np.savez(tmp_path / "cut.npz", images=np.zeros((10, 1, 1, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="must hold 1036800 or 460800 images"):
        load_mpi3d(tmp_path / "cut.npz")


def test_real_data(tmp_path):
    images = np.full((6, 28, 28), 255, dtype=np.uint8)
    labels = {"alphabet": np.array([0, 0, 0, 1, 1, 1]), "character": np.arange(6) // 2, "drawer": np.arange(6) % 2}
    names = {"alphabet_names": np.array(["Greek", "Latin"]), "character_names": np.array(["a", "b", "c"])}
    np.savez(tmp_path / "omniglot.npz", images28=images, **labels, **names)
    data = load_omniglot(tmp_path / "omniglot.npz")
    assert data.images.shape == (6, 1, 28, 28)
    assert data.images.max() == 1
    assert data.labels[3].tolist() == [1, 1, 1]
    assert data.values == (("Greek", "Latin"), ("a", "b", "c"), ("0", "1"))
    spoken = {"digit": np.arange(4), "speaker": np.arange(4) % 2, "speaker_names": np.array(["ann", "bob"])}
    np.savez(tmp_path / "digits.npz", images32=np.zeros((4, 32, 32), dtype=np.uint8), **spoken)
    data = load_spoken_digits(tmp_path / "digits.npz")
    assert data.values[1] == ("ann", "bob")
    assert data.names == ("digit", "speaker")
    with pytest.raises(ValueError, match="must hold images105_packed or images28; it holds neither"):
        load_omniglot(tmp_path / "digits.npz")
    packed = np.packbits(np.ones((6, 105 * 105), bool), axis=1)
    del labels["drawer"]
    np.savez(tmp_path / "large.npz", images105_packed=packed, **labels, **names)
    data = load_omniglot(tmp_path / "large.npz", size=35)
    assert data.images.shape == (6, 1, 35, 35) and data.images.min() == 1
    assert data.names == ("alphabet", "character")
    np.savez(tmp_path / "floats.npz", images28=np.ones((6, 28, 28)), **labels)
    with pytest.raises(ValueError, match=r"images must be uint8 \(n, height, width\); got float64 \(6, 28, 28\)"):
        load_omniglot(tmp_path / "floats.npz")
