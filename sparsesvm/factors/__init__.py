"""Data whose factors of variation are known: laws of factors, mixings of vectors, rendered scenes, files, real recordings."""

from sparsesvm.factors.files import FactorData, load_3dshapes, load_dsprites, load_mpi3d
from sparsesvm.factors.latents import BoxGaussian, Gaussian, LatentLaw, UniformBox, grid_probabilities
from sparsesvm.factors.mixing import RandomMLP
from sparsesvm.factors.real import LabelledImages, load_omniglot, load_spoken_digits
from sparsesvm.factors.scenes import SCENE_FACTORS, SceneRenderer

__all__ = [
    "SCENE_FACTORS",
    "BoxGaussian",
    "FactorData",
    "Gaussian",
    "LabelledImages",
    "LatentLaw",
    "RandomMLP",
    "SceneRenderer",
    "UniformBox",
    "grid_probabilities",
    "load_3dshapes",
    "load_dsprites",
    "load_mpi3d",
    "load_omniglot",
    "load_spoken_digits",
]
