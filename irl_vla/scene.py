"""The records that all layers share: frames, scenes, maps, observations and plans.

``dataset`` makes them from files, ``world`` from simulation; everything downstream reads these and nothing else.
Arrays are never written to after construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from irl_vla.errors import SceneError
from irl_vla.geometry import Floats, relative_to

#: Names of annotated objects, in the order of the official type values 0..6 (7, "ego", is skipped by consumers).
OBJECT_NAMES: Final = ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object")
CAMERA_NAMES: Final = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")
#: Yaw of the optical axis (degrees, left positive) and place (x, y, z in metres, ego frame) on one vehicle of the logs.
CAMERA_MOUNTS: Final[Mapping[str, tuple[float, tuple[float, float, float]]]] = {
    "CAM_F0": (0.0, (1.66, -0.01, 1.49)),
    "CAM_L0": (55.0, (1.63, 0.12, 1.48)),
    "CAM_R0": (-55.0, (1.62, -0.16, 1.48)),
    "CAM_L1": (111.0, (1.30, 0.64, 1.37)),
    "CAM_R1": (-111.0, (1.27, -0.61, 1.37)),
    "CAM_L2": (141.0, (-0.50, 0.55, 1.35)),
    "CAM_R2": (-141.0, (-0.49, -0.49, 1.35)),
    "CAM_B0": (180.0, (-0.47, 0.02, 1.43)),
}
CITIES: Final = ("sg-one-north", "us-ma-boston", "us-nv-las-vegas-strip", "us-pa-pittsburgh-hazelwood")
COMMAND_NAMES: Final = ("left", "straight", "right", "unknown")
#: Sub-scores by their short names, in the order of every array of them, with the official evaluator's column names.
OFFICIAL_SUBSCORES: Final[Mapping[str, str]] = {
    "nc": "no_at_fault_collisions",
    "dac": "drivable_area_compliance",
    "ddc": "driving_direction_compliance",
    "tlc": "traffic_light_compliance",
    "ep": "ego_progress",
    "ttc": "time_to_collision_within_bound",
    "lk": "lane_keeping",
    "hc": "history_comfort",
    "ec": "two_frame_extended_comfort",
}
SUBSCORES: Final = tuple(OFFICIAL_SUBSCORES)
#: What the score reads from a map, as fields over a grid around the ego, metres; see ``epdms.road_fields``.
ROAD_FIELDS: Final = ("drivable", "on_route", "intersection", "lane_offset", "progress", "red_light")

HISTORY_FRAMES: Final = 4  # includes the current frame
FUTURE_FRAMES: Final = 8
PLAN_INTERVAL_S: Final = 0.5
#: Extended comfort compares the plans of a frame and of the frame before it in the log, if that is at most so much
#: older (the official evaluator's 0.55 s; docs/epdms.md, "One stage").
MAX_PAIR_GAP_US: Final = 550_000


@dataclass(frozen=True, slots=True, eq=False)
class EgoStatus:
    """Ego motion of one frame, at the rear axle.

    Attributes:
        pose_global: (3,) x, y, heading in the map's projected frame.
        velocity_mps, acceleration_mps2: (2,) in the ego frame.
        command: index into ``COMMAND_NAMES``.
    """

    pose_global: Floats
    velocity_mps: Floats
    acceleration_mps2: Floats
    command: int


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Annotated objects of one frame, in that frame's ego (rear-axle) frame.

    Attributes:
        boxes: (N, 7) x, y, z, length, width, height, heading of the box centre; heading is not wrapped.
        names: N names out of ``OBJECT_NAMES`` (or "ego").
        velocity_mps: (N, 3) absolute (world) velocity along the ego axes.
        track_tokens: N tokens, stable per object over a log.
    """

    boxes: Floats
    names: tuple[str, ...]
    velocity_mps: Floats
    track_tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Calibration and file of one camera in one frame (camera axes: x right, y down, z forward).

    Attributes:
        path: image file, relative to the split's sensor folder.
        rotation: (3, 3) camera -> ego (NAVSIM's "lidar" frame is the ego frame).
        translation_m: (3,) camera position in the ego frame.
        intrinsic: (3, 3) for the stored image.
        distortion: (5,) k1, k2, p1, p2, k3 as in OpenCV.
    """

    path: str
    rotation: Floats
    translation_m: Floats
    intrinsic: Floats
    distortion: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One 2 Hz frame of a log.

    Attributes:
        timestamp_us: microseconds; gaps above 0.5 s occur.
        traffic_lights: (lane connector id, is red) pairs.
        roadblock_ids: raw route, repeats and gaps included.
        cameras: by NAVSIM name; empty where a log has no images.
        lidar_path: relative to the split's sensor folder, None where there is none.
        sweep_pose: (3,) pose, in this ego frame, of the frame in which the sweep's points are stored; None means the
            same frame (every logged frame; shifted-ego views differ).
    """

    token: str
    timestamp_us: int
    ego: EgoStatus
    objects: Boxes
    traffic_lights: tuple[tuple[int, bool], ...]
    roadblock_ids: tuple[str, ...]
    cameras: Mapping[str, Camera]
    lidar_path: str | None
    sweep_pose: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A window of a log: ``num_history`` frames up to the current one, then the future.

    Attributes:
        token: the current frame's token; 17 characters mark a synthetic second-stage scene.
        group: the unit of independence for statistics (road layout if generated, log if real).
        kind: scenario name for generated data, "" for real data.
        data_split: folder below ``navsim_logs`` and ``sensor_blobs``.
        logged_pose_global: (3,) where the logged ego was in the current frame, of a shifted-ego view; None for a scene
            that is seen from the logged ego.
    """

    token: str
    log_name: str
    map_name: str
    group: str
    kind: str
    data_split: str
    frames: tuple[Frame, ...]
    num_history: int = HISTORY_FRAMES
    logged_pose_global: Floats | None = None

    @property
    def current(self) -> Frame:
        """The frame in which the plan is made."""
        return self.frames[self.num_history - 1]

    @property
    def history(self) -> tuple[Frame, ...]:
        """The past frames and the current one, in time order."""
        return self.frames[: self.num_history]

    @property
    def future(self) -> tuple[Frame, ...]:
        """The logged frames after the current one; hidden from policies."""
        return self.frames[self.num_history :]

    @property
    def is_synthetic(self) -> bool:
        """True for second-stage scenes, which have no human plan and no human filter."""
        return len(self.token) == 17

    @property
    def has_human(self) -> bool:
        """True if a human drove on from the current pose: not in second-stage scenes, nor in shifted-ego views."""
        return not self.is_synthetic and self.logged_pose_global is None and len(self.future) >= FUTURE_FRAMES

    def human_plan(self) -> Floats:
        """(8, 3) logged rear-axle poses of the next eight frames, relative to the current one.

        Raises:
            SceneError: if no human drove on from the current pose.
        """
        if not self.has_human:
            view = "a shifted view" if self.logged_pose_global is not None else f"{len(self.future)} frames behind it"
            raise SceneError(
                f"scene {self.token} of log {self.log_name}: expected a human who drove on for {FUTURE_FRAMES} frames, "
                f"found none ({view}); ask for a plan only where Scene.has_human is true"
            )
        poses = np.stack([frame.ego.pose_global for frame in self.future[:FUTURE_FRAMES]])
        return relative_to(self.current.ego.pose_global, poses)


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """A lane or a lane connector.

    Attributes:
        baseline: (V, 2) centreline vertices as stored, projected frame, metres.
        speed_limit_mps: None where the map has none.
        outgoing, incoming: ids of successors and predecessors in file order.
        left_boundary, right_boundary: (V, 2) polylines, or None if the map view has none.
    """

    id: str
    roadblock_id: str
    is_connector: bool
    baseline: Floats
    polygon: shapely.Polygon
    speed_limit_mps: float | None
    outgoing: tuple[str, ...]
    incoming: tuple[str, ...]
    left_boundary: Floats | None = None
    right_boundary: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Roadblock:
    """A lane group ("roadblock") or a lane-group connector; ids in file order."""

    id: str
    is_connector: bool
    polygon: shapely.Polygon
    lane_ids: tuple[str, ...]
    outgoing: tuple[str, ...]
    incoming: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """Any other polygon of a map; ``kind`` is the type column of its layer (-1 without one)."""

    id: str
    polygon: shapely.Polygon
    kind: int = -1


#: Layers of ``MapView.query``, in the order of the official drivable map, then the rest.
MAP_LAYERS: Final = (
    "ROADBLOCK",
    "LANE",
    "LANE_CONNECTOR",
    "ROADBLOCK_CONNECTOR",
    "INTERSECTION",
    "CARPARK_AREA",
    "STOP_LINE",
    "CROSSWALK",
    "WALKWAY",
    "GENERIC_DRIVABLE",
)


@dataclass(frozen=True, eq=False)
class MapView:
    """One city's map, or a part of it, in its projected frame (metres).

    Dictionaries keep the file order of their layer. Lanes and lane connectors share one id space, and so do
    roadblocks and roadblock connectors.

    Attributes:
        areas: layer name ("INTERSECTION", "CARPARK_AREA", "STOP_LINE", "CROSSWALK", "WALKWAY", "GENERIC_DRIVABLE")
            to its polygons.
    """

    name: str
    lanes: Mapping[str, Lane]
    lane_connectors: Mapping[str, Lane]
    roadblocks: Mapping[str, Roadblock]
    roadblock_connectors: Mapping[str, Roadblock]
    areas: Mapping[str, Mapping[str, Area]]
    _trees: dict[str, tuple[tuple[str, ...], shapely.STRtree]] = field(default_factory=dict, repr=False)

    def layer(self, name: str) -> Mapping[str, Lane | Roadblock | Area]:
        """The objects of a layer of ``MAP_LAYERS`` by id; an absent area layer is empty."""
        match name:
            case "LANE":
                return self.lanes
            case "LANE_CONNECTOR":
                return self.lane_connectors
            case "ROADBLOCK":
                return self.roadblocks
            case "ROADBLOCK_CONNECTOR":
                return self.roadblock_connectors
            case _ if name in MAP_LAYERS:
                return self.areas.get(name, {})
        raise KeyError(f"{name!r} is no map layer; known: {', '.join(MAP_LAYERS)}")

    def lane(self, lane_id: str) -> Lane:
        """The lane or lane connector of an id; KeyError if there is none."""
        return self.lanes[lane_id] if lane_id in self.lanes else self.lane_connectors[lane_id]

    def roadblock(self, block_id: str) -> Roadblock:
        """The roadblock of an id, else the roadblock connector; KeyError if there is neither."""
        return self.roadblocks[block_id] if block_id in self.roadblocks else self.roadblock_connectors[block_id]

    def tree(self, layer: str) -> tuple[tuple[str, ...], shapely.STRtree]:
        """Ids in file order and a spatial index over the layer's polygons, built once."""
        if layer not in self._trees:
            objects = self.layer(layer)
            self._trees[layer] = (tuple(objects), shapely.STRtree([item.polygon for item in objects.values()]))
        return self._trees[layer]

    def query(self, layer: str, x: float, y: float, half_width_m: float) -> list[str]:
        """Ids, in file order, of polygons that touch the axis-aligned square around a point (nuPlan's proximity)."""
        ids, tree = self.tree(layer)
        square = shapely.box(x - half_width_m, y - half_width_m, x + half_width_m, y + half_width_m)
        return [ids[index] for index in sorted(tree.query(square, predicate="intersects"))]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a policy sees of a scene, in the ego frame of the current frame. Never holds the future.

    Attributes:
        images: (C, height, width, 3) uint8 RGB, undistorted, of the cameras in ``camera_names``.
        camera_valid: (C,) False where the image is missing (its pixels are zero).
        intrinsics: (C, 3, 3) for the images as given here.
        camera_to_ego: (C, 4, 4).
        sweeps: one (n, 4) float32 array a history frame, oldest first: x, y, z, intensity of LiDAR points, already
            moved into the current ego frame; empty (0, 4) where missing.
        history: (4, 7) x, y, heading, vx, vy, ax, ay; pose relative to the current rear axle, velocity and
            acceleration in each frame's own ego axes.
        command: index into ``COMMAND_NAMES``.
        instruction: text of the question put to the language model.
    """

    token: str
    camera_names: tuple[str, ...]
    images: NDArray[np.uint8]
    camera_valid: NDArray[np.bool_]
    intrinsics: Floats
    camera_to_ego: Floats
    sweeps: tuple[NDArray[np.float32], ...]
    history: Floats
    command: int
    instruction: str


def are_pair(gap_us: int | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether two frames of a log, neighbours in time, are a pair for extended comfort.

    Args:
        gap_us: (...) how much younger the second frame is, in whole microseconds, so that the bound is exact.

    Returns:
        (...) True in (0, ``MAX_PAIR_GAP_US``].
    """
    gap = np.asarray(gap_us)
    return np.asarray((gap > 0) & (gap <= MAX_PAIR_GAP_US))


class SubScores(NamedTuple):
    """Raw sub-scores of plans.

    Attributes:
        values: (..., 9) in the order of ``SUBSCORES``; expectations where a model predicts them.
        valid: (...) or (..., 9), True where ``values`` is real.
    """

    values: Floats
    valid: NDArray[np.bool_]
