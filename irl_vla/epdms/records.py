"""Inputs of the score: one scene prepared once, then any number of plans scored against it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from irl_vla.geometry import Floats

#: Polygon layers of the drivable map, by the code in ``PreparedScene.polygon_layer``.
POLYGON_LAYERS: Final = ("ROADBLOCK", "LANE", "LANE_CONNECTOR", "INTERSECTION", "CARPARK_AREA")
ROLLOUT_STEPS: Final = 41
STEP_S: Final = 0.1
REFERENCE_STEPS: Final = 51


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """A list of polygons without holes, as ragged arrays.

    Attributes:
        vertices: (V, 2) global; the closed ring of every polygon, first vertex repeated at its end.
        offsets: (N + 1,) int64; polygon i owns ``vertices[offsets[i]:offsets[i + 1]]``.
    """

    vertices: Floats
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Objects around the ego at 10 Hz (``S`` = 41 steps), global frame.

    Attributes:
        tokens: A track tokens.
        kinds: (A,) int64 official type value, 0 vehicle .. 6 generic object; sorted by kind, stable.
        sizes: (A, 2) length and width.
        poses: (A, S, 3) box centre; rows of absent steps are zero.
        velocities: (A, S, 2) global; zero for static objects.
        present: (A, S) bool.
    """

    tokens: tuple[str, ...]
    kinds: NDArray[np.int64]
    sizes: Floats
    poses: Floats
    velocities: Floats
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class TrafficStart:
    """What reactive traffic starts from, the same for every plan: ``D`` vehicles drive, ``Q`` stand.

    Attributes:
        seen_now: (A,) True for tracks of the current frame; the others appear later.
        drivers: (D,) int64 rows of the tracks that follow a lane, in the order in which they are moved.
        boxes: (D, 3) their box centres, global, moved onto the baseline of the lane.
        motion: (D, 3) arc length along the lane, speed and desired speed.
        lane: (D,) int64 index of the lane that each follows.
        lane_points: (V, 2) global; lane i owns ``lane_points[lane_offsets[i]:lane_offsets[i + 1]]``, its baseline.
        lane_offsets: (L + 1,) int64.
        standing: (Q,) int64 rows of the tracks that stay where they are, absent while a driver touches them.
    """

    seen_now: NDArray[np.bool_]
    drivers: NDArray[np.int64]
    boxes: Floats
    motion: Floats
    lane: NDArray[np.int64]
    lane_points: Floats
    lane_offsets: NDArray[np.int64]
    standing: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedScene:
    """Everything the score of a scene needs, whatever the plan (what the devkit calls a metric cache).

    Poses are global rear-axle poses unless a name says otherwise.

    Attributes:
        time_us: timestamp of the current frame.
        ego_state: (11,) x, y, heading, vx, vy, ax, ay (body frame), steering angle and rate, yaw rate and acceleration.
        history_time_us, history_states: (4,) int64 and (4, 11), nominal -1.5 .. 0 s.
        human_plan: (8, 3) relative to the ego, or None where no human drove (second-stage scenes, shifted views); then
            there is no human filter either.
        reference_poses: (51, 3) PDM-Closed reference at 10 Hz, the first at ``time_us``.
        centerline: (N, 2) polyline of the planned lanes, duplicate joints kept.
        polygons: drivable map, in the order of the official one.
        polygon_layer: (N,) int64 index into ``POLYGON_LAYERS``.
        polygon_on_route: (N,) bool; lanes and connectors of the corrected route.
        tracks: as logged ("replay" traffic), nothing removed yet.
        red_lights: polygons of red lane connectors of the route.
        red_active: (R, 41) bool, True while red.
        traffic: what reactive traffic starts from; None where a scene was recorded without its map's lanes, which can
            be scored in replayed traffic only.
    """

    token: str
    is_synthetic: bool
    time_us: int
    ego_state: Floats
    history_time_us: NDArray[np.int64]
    history_states: Floats
    human_plan: Floats | None
    reference_poses: Floats
    centerline: Floats
    polygons: Polygons
    polygon_layer: NDArray[np.int64]
    polygon_on_route: NDArray[np.bool_]
    tracks: Tracks
    red_lights: Polygons
    red_active: NDArray[np.bool_]
    traffic: TrafficStart | None = None
