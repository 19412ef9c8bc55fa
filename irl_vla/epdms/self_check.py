"""A few recorded results of the official evaluator that travel with the package: is this installation's score right?

``golden_cases`` is cut from the golden files of the tests: every sub-score passing and failing (NC and DDC also by
half), mostly alone, so that a fault shows by its name; forgiven violations; a second-stage scene; simulated traffic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from irl_vla.epdms.comfort import extended_comfort
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.golden_records import Row, by_scene, load_scenes, read_rows, tracks_from
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.rollout import interpolate_plans, simulate
from irl_vla.epdms.scorer import ScoredPlans, final_score, score_in_context, scoring_context, with_traffic
from irl_vla.errors import CheckpointError
from irl_vla.geometry import Floats
from irl_vla.scene import OFFICIAL_SUBSCORES, SUBSCORES

CASES: Final = Path(__file__).parent / "golden_cases"
_TOLERANCE: Final = 1e-9
_METRES: Final = 1e-7
_BEFORE: Final = ScorerConfig(filter_convention="before")
_CORRECTED: Final = ScorerConfig(filter_convention="corrected")
#: Sub-scores by their names in the recorded results, in the order of ``SUBSCORES`` without EC.
_SHORT: Final = SUBSCORES[:-1]
_LONG: Final = tuple(OFFICIAL_SUBSCORES.values())[:-1]


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """Outcome of the check.

    Attributes:
        cases: recorded cases that were scored again.
        wrong: each disagreement as "case: quantity", e.g. "s101_0029 human_copy: raw_tlc"; empty is a pass.
    """

    cases: int
    wrong: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True if every case agrees."""
        return not self.wrong

    def __str__(self) -> str:
        if self.passed:
            return f"passed ({self.cases} cases)"
        return f"failed ({len(self.wrong)} disagreements in {self.cases} cases, first {self.wrong[0]})"


@lru_cache(maxsize=1)
def self_check(folder: Path = CASES) -> SelfCheck:
    """Scores the recorded cases again and compares every recorded quantity; once a process.

    Raises:
        CheckpointError: if the recorded cases are missing or damaged.
    """
    cases = list(_all_cases(folder))
    if not cases:
        raise CheckpointError(f"{folder}: expected recorded cases, found none; install the package again")
    return SelfCheck(len(cases), tuple(f"{name}: {quantity}" for name, wrong in cases for quantity in wrong))


def _all_cases(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every case with the names of the quantities that disagree."""
    scenes, results = load_scenes(folder), by_scene(read_rows(folder, "results"))
    for token, rows in results.items():
        yield from _replay_cases(scenes[token], rows)
    plans = {(row["scene_id"], row["candidate"]): row["poses"] for row in read_rows(folder, "results")}
    tracks = read_rows(folder, "reactive_tracks")
    for row in read_rows(folder, "reactive_results"):
        own = [track for track in tracks if all(track[key] == row[key] for key in ("scene_id", "candidate"))]
        plan = np.array(plans[row["scene_id"], row["candidate"]]).reshape(1, 8, 3)
        yield _reactive_case(scenes[row["scene_id"]], plan, own, row)
    for row in read_rows(folder, "ec_cases"):
        yield _comfort_case(row)


def _replay_cases(scene: PreparedScene, rows: Sequence[Row]) -> Iterator[tuple[str, list[str]]]:
    context = scoring_context(scene)
    plans = np.array([row["poses"] for row in rows]).reshape(-1, 8, 3)
    scored, before = (score_in_context(context, plans, config) for config in (_CORRECTED, _BEFORE))
    for index, row in enumerate(rows):
        wrong = _wrong_subscores(scored, index, row, _SHORT)
        with_ec = scored.filtered[index].copy()
        with_ec[-1] = 0.0
        found = {
            "final_ec_nan": scored.score[index],
            "final_ec0": final_score(with_ec),
            "filt_pdm_score_column": before.score[index],
            "collision_time_idx": scored.collision_step[index],
            "ttc_time_idx": scored.ttc_step[index],
        }
        wrong += [name for name, value in found.items() if not abs(value - row[name]) <= _TOLERANCE]
        if not abs(scored.progress_m[index] - row["progress_raw"]) <= _METRES:
            wrong.append("progress_raw")
        yield f"{row['scene_id']} {row['candidate']}", wrong


def _reactive_case(scene: PreparedScene, plan: Floats, tracks: Sequence[Row], row: Row) -> tuple[str, list[str]]:
    own, human = (tracks_from([track for track in tracks if track["role"] == role]) for role in ("candidate", "human"))
    context = with_traffic(scoring_context(scene), own, human)
    wrong = _wrong_subscores(score_in_context(context, plan, _CORRECTED), 0, row, _LONG)
    return f"{row['scene_id']} {row['candidate']} in simulated traffic", wrong


def _comfort_case(row: Row) -> tuple[str, list[str]]:
    now, previous = (
        simulate(state, interpolate_plans(row[f"{when}_time_us"], state, poses))[0]
        for when in ("now", "prev")
        for state, poses in [
            (np.array(row[f"{when}_init_state"]), np.array(row[f"{when}_poses"]).reshape(1, 8, 3)),
        ]
    )
    found = extended_comfort(now, previous, row["now_start_time"] - row["prev_start_time"])
    return f"pair {row['case']}", [] if found == row["ec"] else ["ec"]


def _wrong_subscores(scored: ScoredPlans, index: int, row: Row, names: Sequence[str]) -> list[str]:
    return [
        f"{kind}_{name}"
        for kind, values in (("raw", scored.raw), ("filt", scored.filtered))
        for name, value in zip(names, values[index], strict=False)  # EC, the last, has its own cases
        if not abs(value - row[f"{kind}_{name}"]) <= _TOLERANCE
    ]
