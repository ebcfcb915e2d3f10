"""Encoders whose outputs are standardised task by task, as bi-level training wants them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsesvm import _checks

__all__ = ["Encoder", "SpatialPooling", "TaskBatchNorm", "conv_encoder", "mlp_encoder", "spatial_encoder"]


class TaskBatchNorm(nn.Module):
    """Standardises features (n_tasks, n_samples, n_features): in training by each task's own mean and variance, in evaluation by
    running averages of them. No scale, no shift: the inner penalty sees features of one size.

    Args:
        n_features: number of features.
        momentum: weight of the newest batch in the running averages.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, n_features: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_variance", torch.ones(n_features))

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        if self.training:
            variance, mean = torch.var_mean(features, -2, correction=0, keepdim=True)
            with torch.no_grad():
                self.running_mean.lerp_(mean.mean((0, 1)), self.momentum)
                self.running_variance.lerp_(variance.mean((0, 1)), self.momentum)
        else:
            mean, variance = self.running_mean, self.running_variance
        return (features - mean) * torch.rsqrt(variance + 1e-5)


class Encoder(nn.Module):
    """A network for single observations, then `TaskBatchNorm`: features (n_tasks, n_samples, n_features) of observations
    (n_tasks, n_samples, ...)."""

    def __init__(self, body: nn.Module, n_features: int) -> None:
        super().__init__()
        self.body = body
        self.norm = TaskBatchNorm(n_features)

    def forward(self, observations: Tensor) -> Tensor:
        """See the class."""
        features = self.body(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
        standardised: Tensor = self.norm(features)
        return standardised


def mlp_encoder(n_inputs: int, n_features: int, width: int = 128) -> Encoder:
    """Two hidden layers of the given width, for vectors.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel.encoders import mlp_encoder
        >>> mlp_encoder(n_inputs=20, n_features=6)(torch.randn(4, 50, 20)).shape  # four tasks of fifty samples
        torch.Size([4, 50, 6])
    """
    n_inputs = _checks.check_integer("n_inputs", n_inputs, minimum=1)
    layers = (nn.Linear(n_inputs, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
    return Encoder(nn.Sequential(*layers, nn.Linear(width, n_features)), n_features)


def conv_encoder(resolution: int, n_features: int, channels: int = 3) -> Encoder:
    """Four strided convolutions and two linear layers, for pictures whose side is a multiple of 16: the encoder of Lachapelle et
    al. 2023 for 3D Shapes (there, resolution 64).

    Raises:
        ValueError: for another resolution.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel.encoders import conv_encoder
        >>> conv_encoder(resolution=32, n_features=6)(torch.rand(2, 5, 3, 32, 32)).shape
        torch.Size([2, 5, 6])
    """
    if _checks.check_integer("resolution", resolution, minimum=16) % 16:
        raise ValueError(f"resolution must be a multiple of 16; got {resolution}")
    flat = 64 * (resolution // 16) ** 2
    return Encoder(
        nn.Sequential(
            *(nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 2, 2), nn.ReLU(), nn.Conv2d(64, 64, 2, 2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(flat, 256), nn.ReLU(), nn.Linear(256, n_features)),
        ),
        n_features,
    )


class SpatialPooling(nn.Module):
    """Where each map responds and how strongly: (n, 3 n_maps) of maps (n, n_maps, height, width), namely for every map the column
    and the row, from -1 to 1, averaged with weights exp(scale * map), and its mean. The scale is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        height, width = maps.shape[-2:]
        weights = (self.scale * maps).flatten(2).softmax(-1).unflatten(2, (height, width))
        columns, rows = torch.linspace(-1, 1, width, device=maps.device), torch.linspace(-1, 1, height, device=maps.device)
        return torch.cat([weights.sum(2) @ columns, weights.sum(3) @ rows, maps.mean((2, 3))], 1)


def spatial_encoder(n_features: int, channels: int = 3) -> Encoder:
    """Four convolutions, `SpatialPooling`, two linear layers, for pictures of any size from 4 by 4 on.

    What a thing looks like and where it is come apart by construction, so that codes hold for combinations that were rarely or
    never seen in training, as under correlated factors.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel.encoders import spatial_encoder
        >>> spatial_encoder(n_features=6)(torch.rand(2, 5, 3, 20, 28)).shape
        torch.Size([2, 5, 6])
    """
    body = nn.Sequential(
        *(nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1)),
        *(SpatialPooling(), nn.Linear(3 * 64, 128), nn.ReLU(), nn.Linear(128, n_features)),
    )
    return Encoder(body.to(memory_format=torch.channels_last), n_features)  # type: ignore[call-overload]
