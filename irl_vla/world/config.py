"""Settings of the generated world: how much of it, which scenarios, which sensors."""

from typing import Literal, Self

from pydantic import Field, model_validator

from irl_vla.config import Config
from irl_vla.world.sensor_config import LidarConfig

CameraName = Literal["CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0"]


class SplitSizeConfig(Config):
    """How much of one split is generated; road layouts are never shared between splits.

    Attributes:
        logs: drives; they are spread evenly over the layouts.
        layouts: road layouts. Eight hold every kind of road; scenarios that fewer cannot show are left out.
    """

    logs: int = Field(gt=0)
    layouts: int = Field(ge=2)


class ScenarioWeights(Config):
    """How often each scenario kind is drawn, relative to the others; see :mod:`irl_vla.world.scenarios`.

    Every kind that the split's layouts can show gets at least 3 % of its logs (rounded up), whatever its weight.
    """

    cruise: float = Field(default=1.0, gt=0)
    curve: float = Field(default=1.2, gt=0)
    follow: float = Field(default=0.9, gt=0)
    lead_stop: float = Field(default=1.1, gt=0)
    hard_brake: float = Field(default=1.0, gt=0)
    tailgater: float = Field(default=0.8, gt=0)
    cut_in: float = Field(default=1.0, gt=0)
    red_light: float = Field(default=1.0, gt=0)
    green_light: float = Field(default=1.0, gt=0)
    turn_left: float = Field(default=1.0, gt=0)
    turn_right: float = Field(default=0.9, gt=0)
    crossing: float = Field(default=0.8, gt=0)
    stop_sign: float = Field(default=1.0, gt=0)
    roundabout: float = Field(default=1.0, gt=0)
    merge: float = Field(default=0.9, gt=0)
    lane_drop: float = Field(default=0.8, gt=0)
    pedestrian: float = Field(default=1.0, gt=0)
    jaywalker: float = Field(default=1.0, gt=0)
    occlusion: float = Field(default=0.9, gt=0)
    parked: float = Field(default=0.7, gt=0)
    double_parked: float = Field(default=1.0, gt=0)
    construction: float = Field(default=1.0, gt=0)
    cyclist: float = Field(default=1.0, gt=0)


class WorldSensorConfig(Config):
    """Cameras and LiDAR of generated logs.

    Attributes:
        cameras: which of the eight cameras are painted; empty for none.
        image_height_px, image_width_px: stored size; the official logs have 1080 x 1920.
        lidar: the sensor of the merged point clouds; None writes none.
        jpeg_quality: 1 to 100.
    """

    cameras: tuple[CameraName, ...] = ("CAM_L0", "CAM_F0", "CAM_R0")
    image_height_px: int = Field(default=144, gt=0)
    image_width_px: int = Field(default=256, gt=0)
    lidar: LidarConfig | None = LidarConfig()
    jpeg_quality: int = Field(default=90, ge=1, le=100)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: expected distinct names, found {self.cameras}")
        return self


class WorldConfig(Config):
    """A generated data set in NAVSIM's layout.

    Attributes:
        train, val, test: sizes of the three splits; each is a folder of logs, a split file and its own layouts.
        frames_per_log: at 2 Hz; a scene needs 4 history and 8 future frames, so a log of n frames gives n - 11 scenes;
            routes are long enough for 16 s.
        object_range_m: objects further than this from the ego are not annotated.
        sensors: None writes logs and maps only.
        workers: processes; logs are independent of each other and of this number.
    """

    train: SplitSizeConfig = SplitSizeConfig(logs=400, layouts=40)
    val: SplitSizeConfig = SplitSizeConfig(logs=64, layouts=10)
    test: SplitSizeConfig = SplitSizeConfig(logs=120, layouts=24)
    weights: ScenarioWeights = ScenarioWeights()
    frames_per_log: int = Field(default=28, ge=12, le=33)
    object_range_m: float = Field(default=90.0, gt=0)
    sensors: WorldSensorConfig | None = WorldSensorConfig()
    workers: int = Field(default=1, ge=1)
