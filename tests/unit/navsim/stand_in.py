"""A stand-in of the devkit: modules, classes and constructors under its names, and inputs made as its loader does.

Written after the format's description: relative poses in float64 by a rotation matrix, then everything of the ego
rounded to float32; images and sweeps as the files hold them; sensors that were not asked for are empty.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from irl_vla.dataset.log import heading_of
from irl_vla.dataset.sensors import parse_sweep

CAMERAS = ("cam_f0", "cam_l0", "cam_l1", "cam_l2", "cam_r0", "cam_r1", "cam_r2", "cam_b0")


@dataclass(frozen=True)
class TrajectorySampling:
    """Two of the three fields determine the third."""

    num_poses: int | None = None
    time_horizon: float | None = None
    interval_length: float | None = None

    def __post_init__(self) -> None:
        count, horizon, interval = self.num_poses, self.time_horizon, self.interval_length
        if horizon and interval and count is None:
            object.__setattr__(self, "num_poses", int(horizon / interval))
        elif count and interval and horizon is None:
            object.__setattr__(self, "time_horizon", float(count * interval))
        elif count and horizon and interval is None:
            object.__setattr__(self, "interval_length", float(horizon / count))


@dataclass
class Trajectory:
    poses: Any
    trajectory_sampling: TrajectorySampling = TrajectorySampling(time_horizon=4, interval_length=0.5)

    def __post_init__(self) -> None:
        assert self.poses.shape == (self.trajectory_sampling.num_poses, 3)


@dataclass
class SensorConfig:
    """Nine fields without defaults, each bool or a list of history indices."""

    cam_f0: bool | list[int]
    cam_l0: bool | list[int]
    cam_l1: bool | list[int]
    cam_l2: bool | list[int]
    cam_r0: bool | list[int]
    cam_r1: bool | list[int]
    cam_r2: bool | list[int]
    cam_b0: bool | list[int]
    lidar_pc: bool | list[int]

    def at(self, index: int) -> set[str]:
        """Sensors loaded for a history frame."""
        return {name for name, value in vars(self).items() if (index in value if isinstance(value, list) else value)}


@dataclass
class Camera:
    image: Any = None
    sensor2lidar_rotation: Any = None
    sensor2lidar_translation: Any = None
    intrinsics: Any = None
    distortion: Any = None
    camera_path: Any = None


@dataclass
class Cameras:
    cam_f0: Camera
    cam_l0: Camera
    cam_l1: Camera
    cam_l2: Camera
    cam_r0: Camera
    cam_r1: Camera
    cam_r2: Camera
    cam_b0: Camera


@dataclass
class Lidar:
    lidar_pc: Any = None
    lidar_path: Any = None


@dataclass
class EgoStatus:
    ego_pose: Any
    ego_velocity: Any
    ego_acceleration: Any
    driving_command: Any
    in_global_frame: bool = False


@dataclass
class AgentInput:
    ego_statuses: list[EgoStatus]
    cameras: list[Cameras]
    lidars: list[Lidar]


class AbstractAgent(torch.nn.Module):
    def __init__(self, trajectory_sampling: TrajectorySampling, requires_scene: bool = False) -> None:
        super().__init__()
        self.requires_scene = requires_scene
        self._trajectory_sampling = trajectory_sampling


MODULES = {
    "navsim.common.dataclasses": (AgentInput, Camera, Cameras, EgoStatus, Lidar, SensorConfig, Trajectory),
    "navsim.agents.abstract_agent": (AbstractAgent,),
    "nuplan.planning.simulation.trajectory.trajectory_sampling": (TrajectorySampling,),
}


def install(patch: pytest.MonkeyPatch) -> None:
    """Makes the stand-ins importable under the official names, and picklable under them."""
    for name, classes in MODULES.items():
        module = ModuleType(name)
        for item in classes:
            setattr(module, item.__name__, item)
            patch.setattr(item, "__module__", name)
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            if parent not in sys.modules:
                patch.setitem(sys.modules, parent, ModuleType(parent))
        patch.setitem(sys.modules, name, module)


def agent_input(frames: list[dict[str, Any]], sensors: SensorConfig, folder: Path) -> AgentInput:
    """What the devkit gives to an agent for four log frames (raw dictionaries), the last being the current one."""
    poses = np.array([[*f["ego2global_translation"][:2], heading_of(f["ego2global_rotation"])] for f in frames])
    turn = -poses[-1, 2]
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    relative = poses - poses[-1]
    relative[:, :2] = relative[:, :2] @ matrix.T
    relative[:, 2] = np.arctan2(np.sin(relative[:, 2]), np.cos(relative[:, 2]))
    statuses, cameras, lidars = [], [], []
    for index, frame in enumerate(frames):
        dynamics = np.array(frame["ego_dynamic_state"], np.float32)
        pose = relative[index].astype(np.float32)
        statuses.append(EgoStatus(pose, dynamics[:2], dynamics[2:], np.array(frame["driving_command"], int)))
        wanted = sensors.at(index)
        cameras.append(
            Cameras(**{name: _camera(frame, name, folder) if name in wanted else Camera() for name in CAMERAS})
        )
        path = folder / frame["lidar_path"]
        lidars.append(Lidar(parse_sweep(path.read_bytes(), path)) if "lidar_pc" in wanted else Lidar())
    return AgentInput(statuses, cameras, lidars)


def _camera(frame: dict[str, Any], name: str, folder: Path) -> Camera:
    entry = frame["cams"][name.upper()]
    return Camera(
        image=np.array(Image.open(folder / entry["data_path"])),
        sensor2lidar_rotation=entry["sensor2lidar_rotation"],
        sensor2lidar_translation=entry["sensor2lidar_translation"],
        intrinsics=entry["cam_intrinsic"],
        distortion=entry["distortion"],
    )
