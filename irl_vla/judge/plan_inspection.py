"""Whether the plans of a file make sense together, asked of prepared scenes."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from irl_vla.epdms.store import PreparedStore
from irl_vla.geometry import Floats
from irl_vla.judge.plan_checks import PlanFinding, find_position_fault, follows_ego
from irl_vla.judge.plan_file import PlanFile
from irl_vla.judge.plan_headings import find_heading_fault
from irl_vla.judge.plan_readings import PlanSample
from irl_vla.ledger.files import write_text
from irl_vla.scene import FUTURE_FRAMES

#: What is the same in all plans shows in so many.
_LOOKED_AT: Final = 400

log = logging.getLogger(__name__)


def inspect_files(store: PreparedStore, files: Mapping[str, PlanFile], record: Path) -> None:
    """Warns once of what is wrong with all plans of a file, and writes it to ``record``; nothing wrong: no record.

    Args:
        store: the prepared scenes; plans of others are not looked at.
        files: by name, those of the messages and of the record.
        record: JSON, by name a list of findings.
    """
    found = {name: inspect_plans(store, {**file.plans, **file.out_of_range}) for name, file in files.items()}
    found = {name: findings for name, findings in found.items() if findings}
    record.unlink(missing_ok=True)  # of an earlier call
    for name, findings in found.items():
        for finding in findings:
            log.warning("%s as a whole: %s", name, finding.message)
    if found:
        rows = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        write_text(record, json.dumps(rows, indent=1))


def inspect_plans(store: PreparedStore, plans: Mapping[str, Floats]) -> list[PlanFinding]:
    """Faults of plans (8, 3) by token as a whole: the best explanation alone, or none.

    Of many plans some hundreds are looked at, spread evenly.
    """
    tokens = [token for token in plans if token in store]
    if not tokens:
        return []
    chosen = tokens[:: -(-len(tokens) // _LOOKED_AT)]
    scenes = [store[token] for token in chosen]
    none = np.zeros((FUTURE_FRAMES, 3))
    sample = PlanSample(
        plans=np.stack([np.asarray(plans[token], np.float64) for token in chosen]),
        velocity_mps=np.stack([scene.ego_state[3:5] for scene in scenes]),
        human=np.stack([none if scene.human_plan is None else scene.human_plan for scene in scenes]),
        known=np.array([scene.human_plan is not None for scene in scenes]),
    )
    return find_plan_faults(sample)


def find_plan_faults(sample: PlanSample) -> list[PlanFinding]:
    """The best single explanation of what is wrong with all plans, or nothing; headings only where positions fit."""
    found = find_position_fault(sample)
    if found is None and follows_ego(sample):
        found = find_heading_fault(sample.plans)
    return [] if found is None else [found]
