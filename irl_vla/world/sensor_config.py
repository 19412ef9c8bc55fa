"""Configuration of the spinning LiDAR."""

from typing import Self

from pydantic import Field, model_validator

from irl_vla.config import Config


class LidarConfig(Config):
    """A spinning LiDAR over the front seats; rings are evenly spaced in elevation, from the lowest up.

    Attributes:
        mount_x_m, mount_height_m: sensor position ahead of the rear axle and above the ground.
        range_noise_m: standard deviation of the measured range.
        dropout: probability that a return is lost.
    """

    rings: int = Field(24, ge=2, le=256)
    azimuths: int = Field(480, ge=4)
    lowest_deg: float = Field(-24.0, gt=-90, lt=90)
    highest_deg: float = Field(4.0, gt=-90, lt=90)
    mount_x_m: float = 1.0
    mount_height_m: float = Field(1.9, gt=0)
    max_range_m: float = Field(80.0, gt=0)
    range_noise_m: float = Field(0.02, ge=0)
    dropout: float = Field(0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _elevations_rise(self) -> Self:
        if self.lowest_deg >= self.highest_deg:
            raise ValueError(f"lowest_deg {self.lowest_deg} must lie below highest_deg {self.highest_deg}")
        return self
