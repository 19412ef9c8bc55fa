"""Image backbone: camera images to feature maps whose cell (i, j) is centred on pixel (stride * i, stride * j)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig

from irl_vla.errors import ConfigError
from irl_vla.policy.config import PerceptionConfig
from irl_vla.policy.perception.layers import conv_norm_relu

#: Statistics that pretrained vision models of the hub expect (ImageNet).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageBackbone(nn.Module):
    """A small convolutional network, or a pretrained transformers backbone from a local folder.

    Attributes:
        stride: pixels between the centres of neighbouring feature cells.
        channels: of the feature maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PerceptionConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self.pretrained: Any = None
        self.stages = nn.Sequential()
        if config.image_backbone_path is not None:
            self.pretrained = _load_backbone(config.image_backbone_path)
            self.channels = int(self.pretrained.channels[-1])
            self.stride = _stride(self.pretrained)
            return
        sizes = config.image_channels
        # Three quarters of the time of two strides of 2: the first maps are the largest of the network.
        self.stages.append(conv_norm_relu(3, sizes[0], stride=4, kernel=7))
        for before, after in pairwise(sizes):
            self.stages.append(conv_norm_relu(before, after, stride=2))
            self.stages.append(conv_norm_relu(after, after))
        self.channels, self.stride = sizes[-1], 2 ** (len(sizes) + 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) in [0, 1] to (N, channels, h / stride, w / stride), rounded up."""
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.pretrained is not None:
            features: Tensor = self.pretrained(images).feature_maps[-1]
            return features
        out: Tensor = self.stages(images)
        return out


def _load_backbone(path: Path) -> Any:
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"{path}: expected a local transformers backbone (config.json and weights), found none; "
            "leave perception.image_backbone_path empty to train a small one"
        )
    # AutoBackbone.from_pretrained asks the hub even for a local folder, so the class is found by way of the config.
    config = AutoConfig.from_pretrained(str(path), local_files_only=True)
    return type(AutoBackbone.from_config(config)).from_pretrained(str(path), local_files_only=True)


def _stride(backbone: Any) -> int:
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 128, 128)).feature_maps[-1]
    return 128 // int(features.shape[-1])
