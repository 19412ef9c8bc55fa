"""Plans of any model as a Parquet file, one row a scene.

| column | type | content |
|---|---|---|
| ``token`` | string | token of the scene's current frame |
| ``plan`` | list of 24 floats | 8 poses x, y, heading, one after the other, at 0.5, 1.0 .. 4.0 s |

Poses are of the rear axle in the ego frame of the current moment: x forward and y left in metres, heading
counter-clockwise in radians. Further columns are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from irl_vla.errors import LogFormatError
from irl_vla.geometry import Floats
from irl_vla.ledger.files import atomic_path
from irl_vla.scene import FUTURE_FRAMES

_NUMBERS: Final = 3 * FUTURE_FRAMES
_TEN_HERTZ: Final = 3 * 40
#: No car gets so far in 4 s, nor turns so often: such numbers are in another frame or unit.
_FARTHEST_M: Final = 1000.0
_MOST_TURNED_RAD: Final = 4 * np.pi


@dataclass(frozen=True, slots=True, eq=False)
class PlanFile:
    """What a file holds.

    Attributes:
        plans: token to (8, 3) float64 plan.
        unfit: token to what is wrong with its row; a row without a token goes by "row N" (counted from 0).
        out_of_range: token to the (8, 3) numbers of those rows of ``unfit`` that are plans but for their size.
    """

    plans: Mapping[str, Floats]
    unfit: Mapping[str, str]
    out_of_range: Mapping[str, Floats] = field(default_factory=dict)


def read_plans(path: Path) -> dict[str, Floats]:
    """Plans (8, 3) by token.

    Raises:
        LogFormatError: if the file cannot be read, or any row is unfit: all such rows are named with their tokens.
    """
    found = read_plan_file(path)
    if found.unfit:
        shown = "; ".join(f"{token}: {reason}" for token, reason in found.unfit.items())
        raise LogFormatError(f"{path}: {len(found.unfit)} unfit plans: {shown}")
    return dict(found.plans)


def read_plan_file(path: Path) -> PlanFile:
    """Reads what can be read; unfit rows are named, not raised.

    Raises:
        LogFormatError: if this is no Parquet file, or one of other columns.
    """
    try:
        _check_columns(pq.read_schema(path), path)
        table = pq.read_table(path, columns=["token", "plan"])
    except FileNotFoundError as error:
        raise LogFormatError(f"{path}: expected a Parquet file of plans, found no file") from error
    except (OSError, pa.ArrowException) as error:
        raise LogFormatError(f"{path}: expected a Parquet file of plans, found another content ({error})") from error
    plans: dict[str, Floats] = {}
    unfit: dict[str, str] = {}
    out_of_range: dict[str, Floats] = {}
    rows: dict[str, int] = {}
    for row, (token, values) in enumerate(zip(table["token"].to_pylist(), table["plan"].to_pylist(), strict=True)):
        if not token:
            unfit[f"row {row}"] = "expected a token, found none"
        elif token in rows:
            plans.pop(token, None)
            out_of_range.pop(token, None)
            unfit[token] = f"row {row}: expected a token once, found it in row {rows[token]} too"
        else:
            rows[token] = row
            plan = _plan(values)
            reason = plan if isinstance(plan, str) else _out_of_range(plan)
            if reason is not None:
                unfit[token] = f"row {row}: {reason}"
            if not isinstance(plan, str):
                (plans if reason is None else out_of_range)[token] = plan
    return PlanFile(plans, unfit, out_of_range)


def write_plans(path: Path, plans: Mapping[str, Floats]) -> None:
    """Writes plans (8, 3) atomically, in the order of the mapping.

    Raises:
        ValueError: if a plan is of another shape.
    """
    for token, plan in plans.items():
        if np.shape(plan) != (FUTURE_FRAMES, 3):
            raise ValueError(f"{token}: expected a plan of shape ({FUTURE_FRAMES}, 3), found {np.shape(plan)}")
    rows = [np.asarray(plan, np.float64).ravel().tolist() for plan in plans.values()]
    columns = {"token": pa.array(list(plans), pa.string()), "plan": pa.array(rows, pa.list_(pa.float64()))}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _check_columns(schema: Any, path: Path) -> None:
    if not {"token", "plan"} <= set(schema.names):
        raise LogFormatError(f"{path}: expected the columns token and plan, found {', '.join(schema.names)}")
    token, plan = schema.field("token").type, schema.field("plan").type
    if not (pa.types.is_string(token) or pa.types.is_large_string(token)):
        raise LogFormatError(f"{path}: token: expected strings, found {token}")
    is_list = pa.types.is_list(plan) or pa.types.is_large_list(plan) or pa.types.is_fixed_size_list(plan)
    if not is_list or not (pa.types.is_floating(plan.value_type) or pa.types.is_integer(plan.value_type)):
        raise LogFormatError(
            f"{path}: plan: expected lists of {_NUMBERS} numbers (x, y, heading of {FUTURE_FRAMES} poses), found {plan}"
        )


def _plan(values: list[float | None] | None) -> Floats | str:
    """The plan (8, 3) of a row, or what is wrong with it."""
    found = 0 if values is None else len(values)
    if values is None or found != _NUMBERS:
        # The evaluator follows all 40 poses; silently taking every fifth would give other scores than expected.
        hint = "; of poses at 10 Hz take every fifth, plan[4::5]" if found == _TEN_HERTZ else ""
        return f"expected {_NUMBERS} numbers ({FUTURE_FRAMES} poses at 0.5 .. 4.0 s), found {found}{hint}"
    plan = np.array(values, np.float64).reshape(FUTURE_FRAMES, 3)  # a null becomes NaN
    if not np.isfinite(plan).all():
        return "expected a finite plan, found NaN or infinity"
    return plan


def _out_of_range(plan: Floats) -> str | None:
    """What no car can do."""
    farthest, most_turned = np.abs(plan[:, :2]).max(), np.abs(plan[:, 2]).max()
    if farthest > _FARTHEST_M:
        return f"expected metres in the ego frame, found {farthest:.4g}: global coordinates? Another unit?"
    if most_turned > _MOST_TURNED_RAD:
        return f"expected a heading in radians, found {most_turned:.4g}: degrees?"
    return None
