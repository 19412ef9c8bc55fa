"""Convolution blocks of the perception networks.

Group normalisation throughout: no scene's features depend on what else is in the batch, and training and inference
compute the same numbers.
"""

import math

from torch import Tensor, nn
from torch.nn import functional


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over groups of at least eight channels where that divides."""
    return nn.GroupNorm(channels // math.gcd(8, channels), channels)


def conv_norm_relu(before: int, after: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, normalisation, rectifier."""
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, group_norm(after), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip; dilation widens what a cell sees without further cost."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.first_norm = group_norm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = group_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to the same shape."""
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(x + self.second_norm(self.second(y)))


class CellLinear(nn.Linear):
    """A 1x1 convolution, as a matrix product: its gradient stays in channels-last memory, at a third of the time."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, h, w) to (N, after, h, w)."""
        count, channels, height, width = x.shape
        cells = x.permute(0, 2, 3, 1).reshape(-1, channels)
        return super().forward(cells).view(count, height, width, -1).permute(0, 3, 1, 2)


def mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    """One hidden layer, normalised output: what every token ends with, so that half precision stores it safely."""
    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after), nn.LayerNorm(after))
