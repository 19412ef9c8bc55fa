"""Reading of golden files: inputs and outputs of the official evaluator as Parquet files in one folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from irl_vla.epdms.records import POLYGON_LAYERS, ROLLOUT_STEPS, Polygons, PreparedScene, Tracks
from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.scene import OBJECT_NAMES

Row = Mapping[str, Any]

NO_POLYGONS: Final = Polygons(np.zeros((0, 2)), np.zeros(1, np.int64))


def load_scenes(folder: Path) -> dict[str, PreparedScene]:
    """Reads the scenes of a golden folder by id.

    Raises:
        CheckpointError: if a file is missing or not Parquet.
    """
    parts = [by_scene(read_rows(folder, name)) for name in ("polygons", "agents", "red_lights")]
    return {
        row["scene_id"]: _scene(row, *(part.get(row["scene_id"], []) for part in parts))
        for row in read_rows(folder, "scenes")
    }


def read_rows(folder: Path, name: str) -> list[Row]:
    """Rows of ``<folder>/<name>.parquet``.

    Raises:
        CheckpointError: if it is missing or not Parquet.
    """
    path = folder / f"{name}.parquet"
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a golden file in Parquet format, found {error}") from error
    return rows


def read_json(folder: Path, name: str) -> list[Row]:
    """Cases of ``<folder>/<name>.json``.

    Raises:
        CheckpointError: if it is missing or not JSON.
    """
    path = folder / f"{name}.json"
    try:
        cases: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: expected golden cases in JSON format, found {error}") from error
    return cases


def by_scene(rows: Iterable[Row], key: str = "scene_id") -> dict[str, list[Row]]:
    """Rows by the scene that column ``key`` names, in file order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def polygons_from(rings: Sequence[Floats]) -> Polygons:
    """Polygons from closed rings (V, 2)."""
    if not rings:
        return NO_POLYGONS
    return Polygons(np.concatenate(rings), np.cumsum([0, *(len(ring) for ring in rings)], dtype=np.int64))


def _ring(row: Row) -> Floats:
    return np.stack([row["x"], row["y"]], axis=-1)


def tracks_from(rows: Sequence[Row]) -> Tracks:
    """Tracks from rows of agents, sorted by kind."""
    rows = sorted(rows, key=lambda row: OBJECT_NAMES.index(row["type"].lower()))
    poses = np.zeros((len(rows), ROLLOUT_STEPS, 3))
    velocities = np.zeros((len(rows), ROLLOUT_STEPS, 2))
    present = np.zeros((len(rows), ROLLOUT_STEPS), np.bool_)
    for a, row in enumerate(rows):
        poses[a, row["steps"]] = np.stack([row["x"], row["y"], row["heading"]], axis=-1)
        velocities[a, row["steps"]] = np.stack([row["vx"], row["vy"]], axis=-1)
        present[a, row["steps"]] = True
    return Tracks(
        tokens=tuple(row["token"] for row in rows),
        kinds=np.array([OBJECT_NAMES.index(row["type"].lower()) for row in rows], np.int64),
        sizes=np.array([[row["length"], row["width"]] for row in rows]).reshape(-1, 2),
        poses=poses,
        velocities=velocities,
        present=present,
    )


def _scene(row: Row, polygons: Sequence[Row], agents: Sequence[Row], lights: Sequence[Row]) -> PreparedScene:
    polygons = sorted(polygons, key=lambda item: item["idx"])
    active = np.zeros((len(lights), ROLLOUT_STEPS), np.bool_)
    for index, light in enumerate(lights):
        active[index, light["steps"]] = True
    human = row["human_poses"]
    return PreparedScene(
        token=row["scene_id"],
        is_synthetic=row["scene_type"] == "SYNTHETIC",
        time_us=row["time_us"],
        ego_state=np.array(row["ego_init_state"]),
        history_time_us=np.array(row["history_time_us"], np.int64),
        history_states=np.array(row["history_states"]).reshape(-1, 11),
        human_plan=None if human is None else np.array(human).reshape(8, 3),
        reference_poses=np.array(row["pdm_poses"]).reshape(-1, 3),
        centerline=np.stack([row["centerline_x"], row["centerline_y"]], axis=-1),
        polygons=polygons_from([_ring(item) for item in polygons]),
        polygon_layer=np.array([POLYGON_LAYERS.index(item["layer"]) for item in polygons], np.int64),
        polygon_on_route=np.array([item["on_route"] for item in polygons], np.bool_),
        tracks=tracks_from(agents),
        red_lights=polygons_from([_ring(item) for item in lights]),
        red_active=active,
    )
