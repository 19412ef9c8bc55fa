"""Turns simulated moments into the frames of a log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from irl_vla.dataset.log_writer import sweep_path
from irl_vla.geometry import Floats, relative_to, rotate
from irl_vla.ledger.files import content_hash
from irl_vla.scene import COMMAND_NAMES, Boxes, EgoStatus, Frame
from irl_vla.world.brake_lamps import is_braking
from irl_vla.world.drivers import EGO, Scenario
from irl_vla.world.interaction import RED
from irl_vla.world.moments import Moment
from irl_vla.world.rig import Rig, rig_cameras
from irl_vla.world.roads.network import red_flags
from irl_vla.world.walkers import WALKER_SIZE_M

#: NAVSIM's rule for driving commands: lateral offset of the route this far ahead.
_COMMAND_AHEAD_M: Final = 20.0
_COMMAND_LATERAL_M: Final = 2.0
_INTERVAL_US: Final = 500_000


@dataclass(frozen=True, slots=True)
class LogStamp:
    """Name and start time of a log, and the seed that its tokens depend on."""

    log_name: str
    start_us: int
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class _Thing:
    """One object at one moment: global centre pose (3,), speed along its heading."""

    token: str
    name: str
    pose: Floats
    size_m: tuple[float, float, float]
    speed_mps: float


def make_frames(
    scenario: Scenario,
    moments: Sequence[Moment],
    stamp: LogStamp,
    *,
    range_m: float,
    rig: Rig | None,
    has_lidar: bool,
) -> list[Frame]:
    """Frames of a drive; sensor files are named but not made.

    Args:
        range_m: objects whose centres are further from the ego are left out.
        rig: cameras of the log, None for none.
    """
    frames = []
    for index, moment in enumerate(moments):
        token = content_hash(["frame", stamp.seed, stamp.log_name, index])
        red = {axis: light == RED for axis, light in enumerate(moment.lights)}
        frames.append(
            Frame(
                token=token,
                timestamp_us=stamp.start_us + index * _INTERVAL_US,
                ego=_ego_status(moment),
                objects=_boxes(moment, _things(scenario, moment, stamp), range_m),
                traffic_lights=red_flags(scenario.network, red),
                roadblock_ids=scenario.route.block_ids,
                cameras={} if rig is None else rig_cameras(rig, stamp.log_name, token),
                lidar_path=sweep_path(stamp.log_name, token) if has_lidar else None,
            )
        )
    return frames


def lit_tokens(moment: Moment, stamp: LogStamp) -> frozenset[str]:
    """Track tokens of the vehicles whose brake lights are on."""
    braking = np.flatnonzero(is_braking(moment.accelerations))
    return frozenset(_token(stamp, "driver", int(index)) for index in braking if index != EGO)


def driving_command(path: Floats, along_m: float, pose: Floats) -> int:
    """Index into ``COMMAND_NAMES`` from the route (V, 3), 1 m apart, 20 m ahead of the rear axle pose (3,)."""
    ahead = path[int(np.clip(round(along_m + _COMMAND_AHEAD_M), 0, len(path) - 1))]
    lateral = relative_to(pose, ahead)[1]
    if lateral > _COMMAND_LATERAL_M:
        return COMMAND_NAMES.index("left")
    return COMMAND_NAMES.index("right" if lateral < -_COMMAND_LATERAL_M else "straight")


def _ego_status(moment: Moment) -> EgoStatus:
    ego = moment.ego
    return EgoStatus(
        pose_global=ego.pose,
        velocity_mps=np.array([ego.speed_mps, 0.0]),
        acceleration_mps2=np.array([ego.acceleration_mps2, ego.lateral_acceleration_mps2]),
        command=driving_command(moment.ego_path, ego.along_m, ego.pose),
    )


def _things(scenario: Scenario, moment: Moment, stamp: LogStamp) -> list[_Thing]:
    things = [
        _Thing(_token(stamp, "driver", index), driver.name, pose, driver.size_m, float(speed))
        for index, (driver, pose, speed) in enumerate(zip(scenario.drivers, moment.poses, moment.speeds, strict=True))
        if index != EGO and not np.isnan(pose[0])
    ]
    things += [
        _Thing(_token(stamp, "walker", index), "pedestrian", pose, WALKER_SIZE_M, float(speed))
        for index, (pose, speed) in enumerate(zip(moment.walkers, moment.walker_speeds, strict=True))
    ]
    things += [
        _Thing(_token(stamp, "stroller", index), item.name, pose, item.size_m, item.speed_mps)
        for index, (item, pose) in enumerate(zip(scenario.strollers, moment.strollers, strict=True))
    ]
    things += [
        _Thing(_token(stamp, role, index), item.name, item.pose, item.size_m, 0.0)
        for role, items in (("blocking", scenario.blocking), ("still", scenario.still))
        for index, item in enumerate(items)
    ]
    return things


def _boxes(moment: Moment, things: Sequence[_Thing], range_m: float) -> Boxes:
    pose = moment.ego.pose
    near = [item for item in things if np.linalg.norm(item.pose[:2] - pose[:2]) <= range_m]
    if not near:
        return Boxes(np.zeros((0, 7)), (), np.zeros((0, 3)), ())
    local = relative_to(pose, np.stack([item.pose for item in near]))
    sizes = np.array([item.size_m for item in near])
    speeds = np.array([item.speed_mps for item in near])
    velocity = rotate(np.stack([speeds, np.zeros(len(near))], axis=1), local[:, 2])
    # the world is flat: boxes stand on the plane z = 0 of the ego frame
    return Boxes(
        boxes=np.column_stack([local[:, :2], sizes[:, 2] / 2, sizes, local[:, 2]]),
        names=tuple(item.name for item in near),
        velocity_mps=np.column_stack([velocity, np.zeros(len(near))]),
        track_tokens=tuple(item.token for item in near),
    )


def _token(stamp: LogStamp, role: str, index: int) -> str:
    return content_hash(["track", stamp.seed, stamp.log_name, role, index])
