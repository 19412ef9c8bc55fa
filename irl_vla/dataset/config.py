"""Settings of the data set, the sensors a policy sees, its perception targets, and shifted-ego views."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from irl_vla.config import Config

CameraName = Literal["CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0"]
HistoryIndex = Annotated[int, Field(ge=0, le=3)]


class DataConfig(Config):
    """Where the data is and which splits serve which purpose.

    A path left unset falls back to the official environment variables: ``root`` to ``OPENSCENE_DATA_ROOT``; then
    ``maps_root`` to ``NUPLAN_MAPS_ROOT``, else ``<root>/maps``; and ``splits_root`` to ``<root>/train_test_split``,
    else the split folder below ``NAVSIM_DEVKIT_ROOT``. With an explicit ``root`` the maps are ``<root>/maps`` unless
    ``maps_root`` says otherwise: a variable that belongs to another data set is not mixed in.

    Attributes:
        root: folder with ``navsim_logs`` and ``sensor_blobs``.
        maps_root: folder with ``nuplan-maps-v1.0.json`` and the four cities.
        splits_root: folder with ``<split>.yaml`` files.
        train, val, test: split names (file names without ``.yaml``).
        skip_broken: leaves out logs that are missing or cannot be read, counted and named, when scenes are prepared or
            judged; such figures stand on other scenes. False names them all and stops.
    """

    root: Path | None = None
    maps_root: Path | None = None
    splits_root: Path | None = None
    train: str = "train"
    val: str = "val"
    test: str = "test"
    skip_broken: bool = False

    @property
    def splits(self) -> dict[str, str]:
        """Split names by role."""
        return {"train": self.train, "val": self.val, "test": self.test}


class SensorConfig(Config):
    """What :func:`irl_vla.dataset.features.build_observation` puts into an observation.

    Attributes:
        cameras: in the order of the observation's first axis; empty for a policy without images.
        image_height_px, image_width_px: size after resizing; intrinsics follow.
        lidar_history: history indices (3 = current frame, 0 = 1.5 s ago) whose sweeps are loaded, ascending.
        allow_missing: True gives blank images (``camera_valid`` False) and empty sweeps where a sensor file is missing;
            False makes it an error that names the file.
    """

    cameras: tuple[CameraName, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    image_height_px: int = Field(default=108, gt=0)
    image_width_px: int = Field(default=192, gt=0)
    lidar_history: tuple[HistoryIndex, ...] = (2, 3)
    allow_missing: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: expected distinct names, found {self.cameras}")
        if list(self.lidar_history) != sorted(set(self.lidar_history)):
            raise ValueError(f"lidar_history: expected ascending distinct indices, found {self.lidar_history}")
        return self


class TargetConfig(Config):
    """The region around the ego in which perception is supervised, and the thresholds of the meta-action.

    Attributes:
        x_min_m, x_max_m, y_min_m, y_max_m: extent in the ego frame.
        cell_m: edge of one raster cell.
        line_width_m: drawn width of centrelines and lane boundaries.
        stop_speed_mps: a plan whose last half second is slower than this on average is "stop".
        speed_change_mps: change from the present to the final speed from which it is "accelerate" or "decelerate".
        turn_heading_rad: heading change over the plan from which the path is "left" or "right".
        lane_change_m: lateral offset beyond that of a plain curve from which the path is a lane change.
    """

    x_min_m: float = -16.0
    x_max_m: float = 48.0
    y_min_m: float = -32.0
    y_max_m: float = 32.0
    cell_m: float = Field(default=1.0, gt=0)
    line_width_m: float = Field(default=1.0, gt=0)
    stop_speed_mps: float = Field(default=1.0, ge=0)
    speed_change_mps: float = Field(default=1.5, gt=0)
    turn_heading_rad: float = Field(default=0.26, gt=0)
    lane_change_m: float = Field(default=1.75, gt=0)

    @model_validator(mode="after")
    def _extent(self) -> Self:
        if self.x_min_m + self.cell_m > self.x_max_m or self.y_min_m + self.cell_m > self.y_max_m:
            raise ValueError("x_min_m < x_max_m and y_min_m < y_max_m by at least one cell_m expected")
        return self

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows (along x) and columns (along y) of the raster."""
        rows = round((self.x_max_m - self.x_min_m) / self.cell_m)
        return rows, round((self.y_max_m - self.y_min_m) / self.cell_m)


class ViewConfig(Config):
    """Shifted-ego views of a scene: offsets are uniform in plus or minus the given bound.

    Attributes:
        count: views a scene, beside the original.
        lateral_m, longitudinal_m: bounds of the shift along the ego's own axes.
        heading_rad: bound of the rotation.
    """

    count: int = Field(default=1, ge=0)
    lateral_m: float = Field(default=1.0, ge=0)
    longitudinal_m: float = Field(default=1.0, ge=0)
    heading_rad: float = Field(default=0.15, ge=0)


class SceneFilter(Config):
    """Which windows of which logs are scenes: the fields of the official filter that concern logged scenes.

    Attributes:
        num_history_frames: includes the current frame.
        frame_interval: step between window starts; None means non-overlapping windows.
        has_route: drop windows whose current frame has no route.
        max_scenes: stop after so many, in the order of log names.
        log_names, tokens: keep only these; None keeps all.
        include_synthetic_scenes: the split also has second-stage scenes (they live in their own files).
    """

    num_history_frames: int = Field(default=4, ge=1)
    num_future_frames: int = Field(default=10, ge=0)
    frame_interval: int | None = Field(default=None, ge=1)
    has_route: bool = True
    max_scenes: int | None = Field(default=None, ge=1)
    log_names: tuple[str, ...] | None = None
    tokens: tuple[str, ...] | None = None
    include_synthetic_scenes: bool = False

    @property
    def num_frames(self) -> int:
        """Length of a window."""
        return self.num_history_frames + self.num_future_frames

    @property
    def step(self) -> int:
        """Frames between the starts of neighbouring windows."""
        return self.num_frames if self.frame_interval is None else self.frame_interval
