"""LiDAR sweeps drawn into a bird's-eye-view raster."""

import numpy as np
from numpy.typing import NDArray

from irl_vla.policy.config import GridConfig, LidarConfig


def raster_shape(config: LidarConfig, grid: GridConfig) -> tuple[int, int, int]:
    """(channels, rows, columns) of the raster of one observation."""
    scale = config.cells_per_bev_cell
    return config.channels, grid.rows * scale, grid.columns * scale


def rasterise_sweeps(
    sweeps: tuple[NDArray[np.float32], ...], config: LidarConfig, grid: GridConfig
) -> NDArray[np.uint8]:
    """Draws the chosen sweeps, oldest first, each as density, height and intensity.

    Args:
        sweeps: (n, 4) x, y, z, intensity in the current ego frame, one a history frame; empty where missing.

    Returns:
        (channels, rows, columns) raster; rows run along x from the rear, columns along y from the right.
        Density counts points above ``obstacle_min_z_m`` on a logarithmic scale; height is that of the highest point,
        from 1 (``min_z_m``) to 255 (``max_z_m``); intensity is the mean; cells without points are 0.
    """
    return np.concatenate([_rasterise(sweeps[index], config, grid) for index in config.sweep_indices])


def _rasterise(points: NDArray[np.float32], config: LidarConfig, grid: GridConfig) -> NDArray[np.uint8]:
    _, rows, columns = raster_shape(config, grid)
    cell_m = grid.cell_m / config.cells_per_bev_cell
    x, y, z, intensity = np.asarray(points, np.float32).T
    row, column = np.floor((x - grid.x_min_m) / cell_m), np.floor((y - grid.y_min_m) / cell_m)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    inside &= (z >= config.min_z_m) & (z <= config.max_z_m)
    cell = (row[inside] * columns + column[inside]).astype(np.int64)
    z, intensity = z[inside], intensity[inside]

    size = rows * columns
    count = np.bincount(cell, minlength=size)
    obstacles = np.bincount(cell[z > config.obstacle_min_z_m], minlength=size)
    density = np.log1p(obstacles) / np.log1p(config.max_points_per_cell)
    highest = np.full(size, config.min_z_m)
    np.maximum.at(highest, cell, z)
    height = (highest - config.min_z_m) / (config.max_z_m - config.min_z_m)
    brightness = np.bincount(cell, weights=intensity, minlength=size) / np.maximum(count, 1) / config.max_intensity

    # A point at the very bottom must differ from no point, hence height starts at 1.
    levels = np.stack([255 * density, 1 + 254 * height, 255 * brightness]).clip(0, 255)
    levels[:, count == 0] = 0
    raster: NDArray[np.uint8] = np.rint(levels).astype(np.uint8).reshape(3, rows, columns)
    return raster
