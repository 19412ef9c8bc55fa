"""Simulated traffic against the recorded one, step by step."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from irl_vla.epdms.golden_records import Row
from irl_vla.epdms.records import ROLLOUT_STEPS, PreparedScene
from irl_vla.epdms.traffic import reactive_tracks
from irl_vla.geometry import Floats, wrap_angle
from irl_vla.judge.official.observation import METRES, Observation, same

#: Step to token to x, y, heading, vx, vy of every vehicle.
RecordedTraffic = Mapping[int, Mapping[str, Sequence[float]]]

_COLUMNS = ("x", "y", "heading", "vx", "vy")


def recorded_traffic(rows: Sequence[Row]) -> dict[tuple[str, str], RecordedTraffic]:
    """Recorded vehicles by scene and plan."""
    groups: dict[tuple[str, str], dict[int, dict[str, list[float]]]] = {}
    for row in rows:
        steps = groups.setdefault((row["scene"], row["plan"]), {})
        steps.setdefault(row["step"], {})[row["token"]] = [row[name] for name in _COLUMNS]
    return dict(groups)


def traffic_columns(
    name: str, scene: PreparedScene, rollout: Floats, recorded: RecordedTraffic
) -> Iterator[Observation]:
    """Vehicles of all steps around a recorded rollout (41, 11): who is there, where, and how fast."""
    tracks = reactive_tracks(scene, rollout)
    vehicles = np.flatnonzero(tracks.kinds == 0)
    for step in range(ROLLOUT_STEPS):
        here = [a for a in vehicles if tracks.present[a, step]]
        there = recorded.get(step, {})
        tokens = [tracks.tokens[a] for a in here]
        yield same(f"{name}.tokens", set(tokens), set(there))
        if set(tokens) != set(there):
            continue
        expected = np.array([there[token] for token in tokens]).reshape(-1, len(_COLUMNS))
        found = np.concatenate([tracks.poses[here, step], tracks.velocities[here, step]], axis=-1)
        yield Observation(f"{name}.xy", found[:, :2], expected[:, :2], METRES)
        turned = wrap_angle(found[:, 2] - expected[:, 2])
        yield Observation(f"{name}.heading", turned, np.zeros(len(here)), METRES)
        yield Observation(f"{name}.velocity", found[:, 3:], expected[:, 3:], METRES)
