"""Looks at a few recorded rows and stops at the first that is computed otherwise: a child of ``test_mutations``.

``python -m tests.golden.mutation_probe PROBE ROW...`` prints "same", or the column that differs. It looks at whatever
``irl_vla`` lies in the current directory, and compares as ``python -m irl_vla.judge.official`` does.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import irl_vla
from irl_vla.epdms.golden_records import by_scene, read_json, read_rows
from irl_vla.epdms.tracks import interpolate_tracks
from irl_vla.geometry import wrap_angle
from irl_vla.judge.official import cases, planning, results
from irl_vla.judge.official.observation import METRES, Observation, same

from .cases_by_hand import CASES as BY_HAND

DATA: Final = Path(__file__).parent / "data"
SAME: Final = "same"

_Check = Callable[[Path], Iterator[Observation]]
#: Probes whose rows are case numbers of one file.
_CASES: Final[dict[str, tuple[str, _Check]]] = {
    "simulation": ("sim_cases", cases.check_simulation),
    "comfort": ("comfort_cases", cases.check_comfort),
    "ec": ("ec_cases", cases.check_extended_comfort),
    "collision_types": ("collision_type_cases", cases.check_collision_types),
    "micro": ("micro_cases", cases.check_rules),
}
#: Probes whose rows are "scene plan", and the files with a row for each.
_PLANS: Final[dict[str, tuple[tuple[str, ...], _Check]]] = {
    "scenes": (("results",), results.check_results),
    "rollouts": (("results", "sim_states"), results.check_rollouts),
    "reactive": (("results", "reactive_results", "reactive_tracks"), results.check_reactive),
}
#: Columns that depend on all 29 plans of a scene, or on its first.
_WHOLE_SCENE: Final = ("results.batch_ep", "results.batch_pdm_score", "scenes.pdm_scores.ep")


def first_difference(probe: str, rows: Sequence[str]) -> str:
    """The first column that is not as recorded, with its values; ``SAME`` if all are."""
    with TemporaryDirectory() as folder:
        for item in _observations(probe, rows, Path(folder)):
            found, expected = np.asarray(item.found, np.float64), np.asarray(item.expected, np.float64)
            if found.shape != expected.shape:
                return f"{item.column}: expected shape {expected.shape}, found {found.shape}"
            difference = np.abs(found - expected)
            wrong = ~(difference <= item.tolerance) & ~(np.isnan(found) & np.isnan(expected))
            if wrong.any():
                return f"{item.column}: expected {expected[wrong][0]}, found {found[wrong][0]}"
    return SAME


def _observations(probe: str, rows: Sequence[str], folder: Path) -> Iterator[Observation]:
    """What a probe computes again; ``folder`` takes the recorded rows that it reads."""
    if probe in _CASES:
        name, check = _CASES[probe]
        _copy(name, "case", rows, folder)
        return check(folder)
    if probe in _PLANS:
        names, check = _PLANS[probe]
        scenes = [row.split()[0] for row in rows]
        for name in ("scenes", "polygons", "agents", "red_lights"):
            _copy(name, "scene_id", scenes, folder)
        for name in names:
            _copy(name, "plan", rows, folder)
        return (item for item in check(folder) if item.column not in _WHOLE_SCENE)
    return _OTHERS[probe](rows, folder)


def _copy(name: str, column: str, values: Sequence[str], folder: Path) -> None:
    """Copies the rows of a golden file whose column has one of the values; "plan" is "scene plan"."""
    table = pq.read_table(DATA / f"{name}.parquet")
    if column == "plan":
        pairs = zip(table["scene_id"].to_pylist(), table["candidate"].to_pylist(), strict=True)
        keys = [f"{scene} {candidate}" for scene, candidate in pairs]
    else:
        keys = [str(value) for value in table[column].to_pylist()]
    kept = pc.is_in(pa.array(keys, pa.string()), value_set=pa.array(values, pa.string()))
    pq.write_table(table.filter(kept), folder / f"{name}.parquet")


def _two_stage(rows: Sequence[str], folder: Path) -> Iterator[Observation]:
    kept = [case for case in read_json(DATA, "two_stage_cases") if str(case["case"]) in rows]
    (folder / "two_stage_cases.json").write_text(json.dumps(kept))
    _copy("ec_cases", "case", [str(row["ec_case"]) for case in kept for row in case["rows"]], folder)
    yield from cases.check_two_stage(folder)


def _tracks(rows: Sequence[str], folder: Path) -> Iterator[Observation]:
    """Boxes at 2 Hz as the evaluator interpolates them; rows are scenes."""
    for name in ("agents", "tracks_2hz"):
        _copy(name, "scene_id", rows, folder)
    recorded = by_scene(read_rows(folder, "agents"))
    for scene, boxes in by_scene(read_rows(folder, "tracks_2hz")).items():
        frames = [planning.frame_objects_of([row for row in boxes if row["frame"] == frame]) for frame in range(9)]
        tracks, expected = interpolate_tracks(frames), {row["token"]: row for row in recorded[scene]}
        yield same("tracks.tokens", set(tracks.tokens), set(expected))
        for a, token in enumerate(tracks.tokens):
            row = expected[token]
            steps = np.flatnonzero(tracks.present[a])
            yield same("tracks.steps", steps.tolist(), row["steps"])
            yield Observation("tracks.sizes", tracks.sizes[a], [row["length"], row["width"]])
            turned = wrap_angle(tracks.poses[a, steps, 2] - np.array(row["heading"]))
            found = np.concatenate([tracks.poses[a, steps, :2], tracks.velocities[a, steps], turned[:, None]], axis=-1)
            motion = np.stack([row["x"], row["y"], row["vx"], row["vy"], np.zeros(len(steps))], axis=-1)
            yield Observation("tracks.motion", found, motion, METRES)


def _by_hand(rows: Sequence[str], folder: Path) -> Iterator[Observation]:
    for row in rows:
        yield from BY_HAND[row]()


_OTHERS: Final = {"two_stage": _two_stage, "tracks": _tracks, "by_hand": _by_hand}
PROBES: Final = (*_CASES, *_PLANS, *_OTHERS)


def main(probe: str, *rows: str) -> int:
    """Prints the difference; fails if the package looked at is not the one in the current directory."""
    if not Path(irl_vla.__file__).is_relative_to(Path.cwd()):
        print(f"expected the package of {Path.cwd()}, found {irl_vla.__file__}", file=sys.stderr)
        return 2
    print(first_difference(probe, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
