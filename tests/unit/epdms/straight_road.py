"""A straight road along x, 4 m wide, whose results can be worked out by hand."""

import numpy as np

from irl_vla.epdms.records import POLYGON_LAYERS, REFERENCE_STEPS, ROLLOUT_STEPS, Polygons, PreparedScene, Tracks
from irl_vla.geometry import Floats
from irl_vla.scene import OBJECT_NAMES

TIME_US = 1_600_000_000_000_000
CENTRE_M = 1.461  # rear axle to box centre
HALF_LENGTH_M = 2.588


def rectangle(x_low: float, y_low: float, x_high: float, y_high: float) -> Floats:
    corners = [[x_low, y_low], [x_high, y_low], [x_high, y_high], [x_low, y_high], [x_low, y_low]]
    return np.array(corners, np.float64)


def polygons(rings: list[Floats]) -> Polygons:
    vertices = np.concatenate(rings) if rings else np.zeros((0, 2))
    return Polygons(vertices, np.cumsum([0, *(len(ring) for ring in rings)], dtype=np.int64))


def states(speed_mps: float, y: float = 0.0, x: float = 0.0) -> Floats:
    """(41, 11) straight driving along x at constant speed."""
    rows = np.zeros((ROLLOUT_STEPS, 11))
    rows[:, 0] = x + 0.1 * speed_mps * np.arange(ROLLOUT_STEPS)
    rows[:, 1], rows[:, 3] = y, speed_mps
    return rows


def plan(speed_mps: float) -> Floats:
    """(8, 3) straight plan at constant speed."""
    return np.stack([0.5 * speed_mps * np.arange(1, 9), np.zeros(8), np.zeros(8)], axis=-1)


def tracks(*objects: tuple[str, float, float, float, float]) -> Tracks:
    """Boxes of 4 m x 2 m along x: (name, x, y, vx, first step)."""
    count = len(objects)
    poses, velocities = np.zeros((count, ROLLOUT_STEPS, 3)), np.zeros((count, ROLLOUT_STEPS, 2))
    present = np.zeros((count, ROLLOUT_STEPS), np.bool_)
    for a, (_, x, y, vx, first) in enumerate(objects):
        poses[a, :, 0] = x + 0.1 * vx * np.arange(ROLLOUT_STEPS)
        poses[a, :, 1], velocities[a, :, 0] = y, vx
        present[a, int(first) :] = True
    return Tracks(
        tokens=tuple(f"track{a}" for a in range(count)),
        kinds=np.array([OBJECT_NAMES.index(item[0]) for item in objects], np.int64),
        sizes=np.tile([4.0, 2.0], (count, 1)),
        poses=poses,
        velocities=velocities,
        present=present,
    )


def scene(
    speed_mps: float = 10.0,
    layers: tuple[tuple[str, bool, Floats], ...] = (),
    objects: Tracks | None = None,
    *,
    red: tuple[Floats, ...] = (),
    human: Floats | None = None,
    reference_mps: float = 10.0,
) -> PreparedScene:
    """The ego at the origin, heading along x; by default the road is one lane on the route."""
    road = rectangle(-50.0, -2.0, 150.0, 2.0)
    layers = layers or (("ROADBLOCK", False, road), ("LANE", True, road))
    ego = states(speed_mps)[0]
    history = np.tile(ego, (4, 1))
    history[:, 0] = speed_mps * np.array([-1.5, -1.0, -0.5, 0.0])
    reference = np.zeros((REFERENCE_STEPS, 3))
    reference[:, 0] = 0.1 * reference_mps * np.arange(REFERENCE_STEPS)
    return PreparedScene(
        token="straight",
        is_synthetic=human is None,
        time_us=TIME_US,
        ego_state=ego,
        history_time_us=TIME_US + np.array([-1_500_000, -1_000_000, -500_000, 0]),
        history_states=history,
        human_plan=human,
        reference_poses=reference,
        centerline=np.array([[-50.0, 0.0], [50.0, 0.0], [50.0, 0.0], [150.0, 0.0]]),
        polygons=polygons([ring for _, _, ring in layers]),
        polygon_layer=np.array([POLYGON_LAYERS.index(layer) for layer, _, _ in layers], np.int64),
        polygon_on_route=np.array([on_route for _, on_route, _ in layers], np.bool_),
        tracks=tracks() if objects is None else objects,
        red_lights=polygons(list(red)),
        red_active=np.ones((len(red), ROLLOUT_STEPS), np.bool_),
    )
