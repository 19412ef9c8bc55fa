"""Settings of the generated world: how much of it, which scenarios, which sensors."""

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from irl_vla.config import Config, speed_only
from irl_vla.world.sensor_config import LidarConfig

#: Frames that a log needs for one pair of neighbouring scenes: 1.5 s of history, both current frames, 4 s of future.
_PAIR_FRAMES: Final = 13

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


class TwoStageConfig(Config):
    """Follow-up scenes for the two-stage evaluation of the test split; see :mod:`irl_vla.world.follow_up`.

    The ego of a follow-up left the log 4 s before and ends beside the logged ego: by up to the given bounds, and mostly
    by far less.

    Attributes:
        groups: pairs of neighbouring test scenes that get follow-ups, spread over the logs.
        pairs_min, pairs_max: follow-up pairs of a group, drawn for each; fewer than drawn where most alternatives leave
            the road or hit somebody.
        lateral_m, longitudinal_m, heading_rad, speed_mps: bounds, along and across the lane.
    """

    groups: int = Field(gt=0)
    pairs_min: int = Field(default=8, ge=1)
    pairs_max: int = Field(default=15, ge=1)
    lateral_m: float = Field(default=2.0, ge=0)
    longitudinal_m: float = Field(default=6.0, ge=0)
    heading_rad: float = Field(default=0.12, ge=0, lt=0.5)
    speed_mps: float = Field(default=2.5, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.pairs_min > self.pairs_max:
            raise ValueError(f"pairs_min <= pairs_max expected, found {self.pairs_min} > {self.pairs_max}")
        return self


class WorldConfig(Config):
    """A generated data set in NAVSIM's layout.

    Attributes:
        train, val, test: sizes of the three splits; each is a folder of logs, a split file and its own layouts.
        frames_per_log: at 2 Hz; a scene needs 4 history and 8 future frames, so a log of n frames gives n - 11 scenes;
            routes are long enough for 16 s.
        object_range_m: objects further than this from the ego are not annotated.
        sensors: None writes logs and maps only.
        two_stage: follow-up scenes of the test split, None for none; may be added to a finished data set.
        workers: processes; logs are independent of each other and of this number.
    """

    train: SplitSizeConfig = SplitSizeConfig(logs=400, layouts=40)
    val: SplitSizeConfig = SplitSizeConfig(logs=64, layouts=10)
    test: SplitSizeConfig = SplitSizeConfig(logs=120, layouts=24)
    weights: ScenarioWeights = ScenarioWeights()
    frames_per_log: int = Field(default=28, ge=12, le=33)
    object_range_m: float = Field(default=90.0, gt=0)
    sensors: WorldSensorConfig | None = WorldSensorConfig()
    two_stage: TwoStageConfig | None = None
    workers: int = speed_only(1, ge=1)

    @model_validator(mode="after")
    def _room_for_groups(self) -> Self:
        room = self.test.logs * self.pairs_per_log
        if self.two_stage is not None and self.two_stage.groups > room:
            raise ValueError(
                f"two_stage.groups: expected at most {room} ({self.test.logs} test logs of {self.frames_per_log} "
                f"frames), found {self.two_stage.groups}"
            )
        return self

    @property
    def pairs_per_log(self) -> int:
        """Pairs of neighbouring scenes in a log of which no two share a scene."""
        return max((self.frames_per_log - _PAIR_FRAMES + 2) // 2, 0)
