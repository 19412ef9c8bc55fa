"""Bird's-eye-view features: camera features lifted by known geometry, fused with LiDAR."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from irl_vla.policy.batch import ObservationBatch
from irl_vla.policy.config import EncoderConfig, GridConfig
from irl_vla.policy.perception.layers import CellLinear, ResidualBlock, conv_norm_relu
from irl_vla.scene import COMMAND_NAMES, HISTORY_FRAMES

MIN_DEPTH_M = 0.5  # nearer points lie beside or behind the image plane
EGO_FEATURES = HISTORY_FRAMES * 8 + len(COMMAND_NAMES)


class BevFeatures(NamedTuple):
    """Feature maps over the grid.

    Attributes:
        fine: (B, fine_channels, rows, columns).
        coarse: (B, coarse_channels, rows / 2, columns / 2), camera and LiDAR fused.
    """

    fine: Tensor
    coarse: Tensor


def cell_centres(grid: GridConfig, stride: int = 1) -> Tensor:
    """(rows / stride, columns / stride, 2) x, y of the centres of (stride x stride) blocks of cells, metres."""
    size = grid.cell_m * stride
    x = grid.x_min_m + size * (torch.arange(grid.rows // stride) + 0.5)
    y = grid.y_min_m + size * (torch.arange(grid.columns // stride) + 0.5)
    return torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1)


def project_points(points: Tensor, intrinsics: Tensor, camera_to_ego: Tensor) -> tuple[Tensor, Tensor]:
    """Pinhole projection of ego-frame points into cameras.

    Args:
        points: (N, 3) metres, ego frame.
        intrinsics: (..., 3, 3).
        camera_to_ego: (..., 4, 4).

    Returns:
        (..., N, 2) pixels (u right, v down; integers are pixel centres) and (..., N) depth in metres; pixels of points
        nearer than ``MIN_DEPTH_M`` are meaningless but finite.
    """
    rotation, translation = camera_to_ego[..., :3, :3], camera_to_ego[..., None, :3, 3]
    in_camera = (points - translation) @ rotation  # row vectors: R^T (p - t)
    depth = in_camera[..., 2]
    homogeneous = (in_camera / depth.clamp_min(MIN_DEPTH_M)[..., None]) @ intrinsics.transpose(-1, -2)
    return homogeneous[..., :2], depth


def lift_images(features: Tensor, stride: int, points: Tensor, batch: ObservationBatch) -> tuple[Tensor, Tensor]:
    """Samples camera features where 3D points appear in the images; the mean over the cameras that see a point.

    Args:
        features: (B, C, F, h, w) feature maps.
        stride: pixels between feature cells; cell (0, 0) is centred on pixel (0, 0).
        points: (N, 3) in the ego frame.
        batch: gives geometry, image size and missing cameras.

    Returns:
        (B, F, N) features, 0 where no camera sees the point, and (B, N) bool whether one does.
    """
    count, cameras, channels, height, width = features.shape
    image_height, image_width = batch.images.shape[-2:]
    pixels, depth = project_points(points, batch.intrinsics, batch.camera_to_ego)
    u, v = pixels.unbind(-1)
    seen = (depth > MIN_DEPTH_M) & (u >= 0) & (u <= image_width - 1) & (v >= 0) & (v <= image_height - 1)
    seen &= batch.camera_valid[..., None]
    limits = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    # Points far outside an image would overflow grid_sample's integer conversion; they are masked anyway.
    locations = ((2 * pixels / stride + 1) / limits - 1).clamp(-2, 2)
    sampled = functional.grid_sample(
        features.flatten(0, 1), locations.flatten(0, 1)[:, :, None], padding_mode="border", align_corners=False
    )
    sampled = sampled.view(count, cameras, channels, -1) * seen[:, :, None]
    views = seen.sum(1)
    return sampled.sum(1) / views.clamp_min(1)[:, None], views > 0


class BevEncoder(nn.Module):
    """LiDAR convolutions with camera features joined at half resolution; a three-level U in all.

    Ego status and command join at half resolution too: which lanes are the route's is a matter of where the car shall
    go, and how fast it drives tells what moves.
    """

    points: Tensor

    def __init__(self, config: EncoderConfig, image_channels: int) -> None:
        super().__init__()
        perception, grid = config.perception, config.grid
        fine, coarse, heights = perception.fine_channels, perception.coarse_channels, perception.pillar_heights_m
        xy = cell_centres(grid, stride=2)
        pillars = torch.stack([torch.cat([xy, torch.full_like(xy[..., :1], z)], dim=-1) for z in heights])
        self.register_buffer("points", pillars.reshape(-1, 3), persistent=False)
        self.shape = (grid.rows // 2, grid.columns // 2)
        self.lidar = conv_norm_relu(config.lidar.channels, fine, stride=config.lidar.cells_per_bev_cell)
        self.down = conv_norm_relu(fine, coarse, stride=2)
        self.camera = CellLinear(image_channels, coarse // 2)
        self.fuse = conv_norm_relu(coarse + len(heights) * (coarse // 2 + 1), coarse, kernel=1)
        self.ego = nn.Sequential(nn.Linear(EGO_FEATURES, 64), nn.GELU(), nn.Linear(64, coarse))
        self.before = ResidualBlock(coarse, 1)
        self.deep = nn.Sequential(
            conv_norm_relu(coarse, perception.deep_channels, stride=2),
            *(ResidualBlock(perception.deep_channels, 2**i) for i in range(perception.deep_blocks)),
            CellLinear(perception.deep_channels, coarse),
        )
        self.after = ResidualBlock(coarse, 2)
        self.up = CellLinear(coarse, fine)
        self.merge = conv_norm_relu(fine, fine)

    def forward(self, batch: ObservationBatch, image_features: Tensor, stride: int) -> BevFeatures:
        """Fuses camera features (B, C, F, h, w) of the given stride with the batch's LiDAR raster."""
        narrow = self.camera(image_features.flatten(0, 1)).unflatten(0, image_features.shape[:2])
        lifted, seen = lift_images(narrow, stride, self.points, batch)
        rows, columns = self.shape
        lifted = lifted.reshape(len(batch), -1, rows, columns)  # heights become channels
        fine = self.lidar(batch.lidar.contiguous(memory_format=torch.channels_last))
        visible = seen.reshape(len(batch), -1, rows, columns).to(lifted.dtype)
        coarse = self.fuse(torch.cat([self.down(fine), lifted, visible], dim=1))
        coarse = self.before(coarse + self.ego(ego_features(batch))[:, :, None, None])
        coarse = self.after(coarse + _raised(self.deep(coarse)))
        return BevFeatures(fine=self.merge(fine + _raised(self.up(coarse))), coarse=coarse)


def ego_features(batch: ObservationBatch) -> Tensor:
    """(B, ``EGO_FEATURES``) ego history and command, each value about 1 in size."""
    x, y, heading, vx, vy, ax, ay = batch.history.unbind(-1)
    scaled = (x / 10, y / 10, heading.sin(), heading.cos(), vx / 10, vy / 10, ax / 3, ay / 3)
    command = functional.one_hot(batch.command, len(COMMAND_NAMES)).to(batch.history.dtype)
    return torch.cat([*scaled, command], dim=-1)


def _raised(features: Tensor) -> Tensor:
    """Features at twice the resolution."""
    return functional.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
