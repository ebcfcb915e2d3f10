"""Networks that turn images into features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device: a run does not depend on how many processes share a step.

    `torch.nn.SyncBatchNorm` does the same for GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        values = input.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        summed = _sum_over_processes(total)
        n, channels = summed[-1], values.shape[1]
        mean = summed[:channels] / n
        variance = (summed[channels:-1] / n - mean.square()).clamp(min=0)
        self._track(mean.detach(), variance.detach() * (n / (n - 1)).detach())
        normalized = (values - mean[:, None, None]) * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normalized = normalized * self.weight[:, None, None] + self.bias[:, None, None]
        return normalized.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
            self.running_var.lerp_(variance.to(self.running_var.dtype), rate)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed


def _sum_over_processes(values: Tensor) -> Tensor:
    summed: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return summed


class Conv4(nn.Module):
    """Blocks of 3x3 convolution, batch norm, 2x2 max pool and ReLU, the usual Conv-4 of the few-shot literature.

    With the defaults 84x84 images give 1600 features, 32x32 give 256 and 28x28 give 64.

    Args:
        channels: of the images.
        widths: filters of each block.
        pool: whether each block pools; by default all do. Without the last pool 28x28 images give 9 positions per filter.
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (64, 64, 64, 64), pool: Sequence[bool] | None = None) -> None:
        super().__init__()
        pool = [True] * len(widths) if pool is None else pool
        if len(pool) != len(widths):
            raise ValueError(f"pool must say for each of the {len(widths)} blocks whether it pools; got {len(pool)} values")
        layers: list[nn.Module] = []
        for inputs, outputs, pools in zip([channels, *widths], widths, pool, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm2d(outputs)]
            # Pooling before ReLU gives the same and is cheaper.
            layers += [nn.MaxPool2d(2)] if pools else []
            layers.append(nn.ReLU())
        self.blocks = nn.Sequential(*layers, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images)
        return features


class DropBlock(nn.Module):
    """Zero random blocks of each channel, so that features cannot be recovered from their neighbours (Ghiasi et al. 2018).

    The drop rate grows linearly from zero to `rate` over the first `warmup` training steps; what remains is scaled up to keep
    the mean. Blocks larger than the image are as large as it.

    Args:
        rate: share dropped, in the end.
        block: side of a block.
        warmup: training steps to the full rate.
    """

    steps: Tensor

    def __init__(self, rate: float, block: int, warmup: int = 40_000) -> None:
        super().__init__()
        if not (0 <= rate < 1 and block >= 1 and warmup >= 0):
            raise ValueError(f"rate must lie in [0, 1), block >= 1, warmup >= 0; got {rate}, {block}, {warmup}")
        self.rate, self.block, self.warmup = rate, block, warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return features
        self.steps += 1
        rate = self.rate * min(1.0, float(self.steps) / max(1, self.warmup))
        height, width = features.shape[-2:]
        block = min(self.block, height, width)
        free = (height - block + 1) * (width - block + 1)
        # Corners of blocks fall so often that a pixel is dropped with probability `rate`.
        corners = torch.rand(*features.shape[:2], height - block + 1, width - block + 1, device=features.device)
        dropped = (corners < rate / block**2 * height * width / free).to(features.dtype)
        covered = functional.max_pool2d(functional.pad(dropped, (block - 1,) * 4), block, stride=1)
        kept = 1 - covered
        return features * kept * (kept.numel() / kept.sum().clamp(min=1))

    def extra_repr(self) -> str:
        return f"rate={self.rate}, block={self.block}, warmup={self.warmup}"


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, drop: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n in range(3):
            layers += [nn.Conv2d(inputs if n == 0 else outputs, outputs, 3, padding=1, bias=False), BatchNorm2d(outputs)]
            layers += [nn.LeakyReLU(0.1)] if n < 2 else []
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm2d(outputs))
        self.after = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2), drop)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.after(self.body(features) + self.shortcut(features))
        return result


class ResNet12(nn.Module):
    """The ResNet-12 of MetaOptNet (Lee et al. 2019): four residual blocks of three convolutions, dropout in the first two and
    DropBlock in the last two.

    84x84 images give 16000 features (640 channels at 5x5 positions), or 640 with `average`; 32x32 give 2560.

    Args:
        channels: of the images.
        widths: filters of the four blocks.
        drop_rate: of dropout and, in the end, of DropBlock.
        block: side of DropBlock's blocks: 5 for 84x84 images, 2 for 32x32.
        drop_warmup: training steps until DropBlock drops at its full rate.
        average: mean over the positions.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        drop_rate: float = 0.1,
        block: int = 5,
        drop_warmup: int = 40_000,
        average: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths must be those of four blocks; got {list(widths)}")
        drops = [nn.Dropout(drop_rate), nn.Dropout(drop_rate), *(DropBlock(drop_rate, block, drop_warmup) for _ in range(2))]
        blocks = [_Residual(i, o, d) for i, o, d in zip([channels, *widths], widths, drops, strict=False)]
        pool = [nn.AdaptiveAvgPool2d(1)] if average else []
        self.blocks = nn.Sequential(*blocks, *pool, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images)
        return features


class R2D2(nn.Module):
    """The network of R2-D2 (Bertinetto et al. 2019): four convolutions, whose last two outputs together are the features.

    84x84 images give 38400 + 12800 = 51200 features.

    Args:
        channels: of the images.
        widths: filters of the four blocks.
        drop_rate: dropout in the last two blocks.
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (96, 192, 384, 512), drop_rate: float = 0.1) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths must be those of four blocks; got {list(widths)}")

        def block(inputs: int, outputs: int, rate: float) -> nn.Sequential:
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            return nn.Sequential(conv, BatchNorm2d(outputs), nn.MaxPool2d(2), nn.LeakyReLU(0.1), nn.Dropout(rate))

        self.first = nn.Sequential(block(channels, widths[0], 0.0), block(widths[0], widths[1], 0.0))
        self.third, self.fourth = block(widths[1], widths[2], drop_rate), block(widths[2], widths[3], drop_rate)

    def forward(self, images: Tensor) -> Tensor:
        third = self.third(self.first(images))
        return torch.cat([third.flatten(1), self.fourth(third).flatten(1)], 1)
