"""A straight two-lane road with known answers: token bank rows and prepared scenes that belong together."""

from pathlib import Path

import numpy as np

from irl_vla.epdms.records import POLYGON_LAYERS, REFERENCE_STEPS, ROLLOUT_STEPS, Polygons, PreparedScene, Tracks
from irl_vla.epdms.road_fields import FieldGrid, JudgedRoads, road_fields
from irl_vla.epdms.store import write_shard
from irl_vla.policy.sight import SightLayout, stored_fields
from irl_vla.policy.token_bank import BankRows, TokenLayout
from irl_vla.reward.proposals import constant_manoeuvre
from irl_vla.scene import OBJECT_NAMES
from tests.unit.policy.banks import store_bank

#: One object and one future: a parked car.
SIGHT = SightLayout(x_min_m=-16.0, y_min_m=-16.0, cell_m=1.0, rows=80, columns=32, objects=1, modes=1)
LAYOUT = TokenLayout({"meta": 2, "bev": 4, "map": 2, "object": 3, "ego": 2}, 16, SIGHT)
START_US = 1_620_000_000_000_000
FRAME_US = 500_000
LIMIT_MPS = 10.0


def polygons(*rings):
    closed = [np.array([*ring, ring[0]], float) for ring in rings]
    return Polygons(np.concatenate(closed), np.cumsum([0, *map(len, closed)]).astype(np.int64))


def history(speed_mps):
    states = np.zeros((4, 7))
    states[:, 0] = speed_mps * np.array([-1.5, -1.0, -0.5, 0.0])
    states[:, 3] = speed_mps
    return states


def straight(speed_mps, acceleration_mps2=0.0, curvature_per_m=0.0):
    return constant_manoeuvre(*np.array([speed_mps, acceleration_mps2, curvature_per_m], np.float64))


def box(start, end, right, left):
    return [(start, right), (end, right), (end, left), (start, left)]


def scene(token, speed_mps, obstacle_m=None, time_us=START_US, has_human=True):
    """The ego heads along x in the right of two lanes, 3.5 m wide; a parked car may stand ``obstacle_m`` ahead."""
    lane, opposite = box(-50, 200, -1.75, 1.75), box(-50, 200, 1.75, 5.25)
    layers = [POLYGON_LAYERS.index(name) for name in ("ROADBLOCK", "LANE", "LANE")]
    cars = 0 if obstacle_m is None else 1
    poses = np.zeros((cars, ROLLOUT_STEPS, 3))
    poses[..., 0] = obstacle_m or 0.0
    states = np.zeros((4, 11))
    states[:, :7] = history(speed_mps)
    reference = np.zeros((REFERENCE_STEPS, 3))
    reference[:, 0] = LIMIT_MPS * 0.1 * np.arange(REFERENCE_STEPS)
    if obstacle_m is not None:
        reference[:, 0] = np.minimum(reference[:, 0], max(obstacle_m - 9.0, 0.0))
    return PreparedScene(
        token=token,
        is_synthetic=False,
        time_us=time_us,
        ego_state=states[-1],
        history_time_us=time_us + FRAME_US * np.arange(-3, 1),
        history_states=states,
        human_plan=human(speed_mps, obstacle_m) if has_human else None,
        reference_poses=reference,
        centerline=np.array([[-50.0, 0.0], [200.0, 0.0]]),
        polygons=polygons(box(-50, 200, -1.75, 5.25), lane, opposite),
        polygon_layer=np.array(layers, np.int64),
        polygon_on_route=np.array([False, True, False]),
        tracks=Tracks(
            tokens=("parked",) * cars,
            kinds=np.zeros(cars, np.int64),
            sizes=np.tile([4.5, 1.9], (cars, 1)),
            poses=poses,
            velocities=np.zeros((cars, ROLLOUT_STEPS, 2)),
            present=np.ones((cars, ROLLOUT_STEPS), bool),
        ),
        red_lights=Polygons(np.zeros((0, 2)), np.zeros(1, np.int64)),
        red_active=np.zeros((0, ROLLOUT_STEPS), bool),
    )


def human(speed_mps, obstacle_m):
    """Keeps its speed on a free road, brakes gently enough for comfort before a parked car."""
    return straight(speed_mps, 0.0 if obstacle_m is None else -(speed_mps**2) / (2 * max(obstacle_m - 9.0, 1.0)))


def sight_columns(scenes):
    """What perfect perception says of scenes, as a bank keeps it."""
    grid = FieldGrid(SIGHT.x_min_m, SIGHT.y_min_m, SIGHT.cell_m, SIGHT.rows, SIGHT.columns)
    columns = {name: np.zeros((len(scenes), *shape), kind) for name, (shape, kind) in SIGHT.stored.items()}
    for row, item in enumerate(scenes):
        roads = JudgedRoads(
            item.ego_state[:3],
            item.polygons,
            item.polygon_layer,
            item.polygon_on_route,
            item.centerline,
            item.red_lights,
        )
        columns["fields"][row] = stored_fields(road_fields(roads, grid))
        if len(item.tracks):
            x = item.tracks.poses[0, 0, 0]
            columns["boxes"][row, 0] = [x, 0, 0.8, 4.5, 1.9, 1.6, 0, 0, 0]
            columns["object_scores"][row, 0, OBJECT_NAMES.index("vehicle")] = 1
            columns["futures"][row, 0, 0, :, 0] = x
    columns["future_chances"][:] = 1
    return columns


def write_world(folder: Path, rows: int = 12, seed: int = 0, groups: int = 4) -> tuple[Path, Path]:
    """A bank and a store of ``rows`` scenes; tokens tell speed and distance of the parked car, noisily.

    Rows come in pairs of a frame and, half a second on, its successor.
    """
    generator = np.random.default_rng(seed)
    speeds = generator.uniform(3.0, 12.0, rows)
    obstacles = np.where(generator.random(rows) < 0.5, generator.uniform(15.0, 40.0, rows), np.nan)
    tokens = [f"{index:016x}" for index in range(rows)]
    times = START_US + FRAME_US * np.arange(rows, dtype=np.int64)
    hazards = [None if np.isnan(value) else float(value) for value in obstacles]
    scenes = [scene(*item) for item in zip(tokens, speeds, hazards, times.tolist(), strict=True)]
    store = folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    write_shard(store / "scenes.arrow", scenes)
    facts = np.stack([speeds / 10, np.nan_to_num(obstacles, nan=80.0) / 40, np.isnan(obstacles)], axis=1)
    packed = 0.05 * generator.normal(size=(rows, LAYOUT.total, LAYOUT.width))
    packed[:, :, :3] += facts[:, None]
    groups_of = np.array([f"layout-{index // 2 % groups}" for index in range(rows)])
    columns = BankRows(
        token=np.array(tokens),
        scene_token=np.array(tokens),
        view=np.full(rows, "original"),
        log_name=np.array([f"log-{index // 2}" for index in range(rows)]),
        group=groups_of,
        kind=np.full(rows, ""),
        timestamp_us=times,
        ego_history=np.stack([history(speed) for speed in speeds]).astype(np.float32),
        command=np.ones(rows, np.int64),
        plan=np.stack([human(s, o) for s, o in zip(speeds, hazards, strict=True)]).astype(np.float32),
        has_plan=np.ones(rows, bool),
        has_human=np.ones(rows, bool),
    )
    bank = folder / "bank"
    store_bank(bank, LAYOUT, "perception-a", packed, columns, sight=sight_columns(scenes))
    return bank, store
