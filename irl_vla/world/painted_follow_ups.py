"""Paints the sensors of second-stage scenes that lack them, as those of logs are painted.

Into a new data set: scene files are written again with the entries of our rig, beside their sensors. In place: only
files that the scenes name and that are not there.
"""

import logging
from typing import Any, Final

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.log_writer import camera_dict
from irl_vla.dataset.nuplan_records import write_records
from irl_vla.dataset.second_stage import parse_second_stage, scene_path, scene_values
from irl_vla.dataset.splits import Split
from irl_vla.scene import CAMERA_NAMES, Frame
from irl_vla.world.painted_logs import Painted, PaintJob, check_named_files, equipped, link, paint_frame

_log = logging.getLogger(__name__)
#: What lies beside the scenes of a split and stays as it is.
_BESIDE: Final = ("openscene_meta_datas", "synthetic_scenes_attributes.csv")


def second_stage_pairs(dataset: Dataset, split: Split) -> list[tuple[str, str]]:
    """Tokens (now, previous) of the follow-up scenes that a split's mapping names; none if they are not there."""
    folder = dataset.second_stage_folder(split.name)
    if split.stage_pairs and not folder.is_dir():
        _log.warning("%s: no such folder; the second stage of split %s is left out", folder, split.name)
        return []
    return [pair for group in split.stage_pairs for pair in group.second]


def begin_second_stage(job: PaintJob) -> None:
    """Links what is not painted into a new data set."""
    if job.target is None:
        return
    for name in _BESIDE:
        source = job.source.second_stage_folder(job.data_split).parent / name
        if source.exists():
            link(source, job.target / job.data_split / name)


def paint_pair(job: PaintJob, tokens: tuple[str, str]) -> Painted:
    """Paints what both scenes of a pair lack; with a target also writes each scene there, behind its sensors.

    The previous scene comes first: it has the frame before those that both see, which tells who brakes.

    Args:
        tokens: of the now and of the previous scene.

    Raises:
        LogFormatError: if a file breaks the format, or cannot be painted in place.
        SceneError: if a scene has no file.
    """
    painted = Painted("")
    for token in reversed(tokens):
        path = scene_path(job.source, job.data_split, token)
        target = None if job.target is None else job.scene_folder / path.name
        if target is not None and target.is_file():
            continue
        values = scene_values(path)
        scene = parse_second_stage(path, values, job.data_split)
        stored = scene.frames[: len(values["frames"])]
        if target is None:
            check_named_files(path, stored)
        painted = Painted(scene.log_name, painted.frames, painted.images, painted.sweeps)
        rows = []
        for before, frame, raw in zip((None, *stored), stored, values["frames"], strict=False):
            wanted = equipped(job, frame, scene.log_name)
            painted = painted.and_frame(*paint_frame(job, scene.map_name, before, frame, wanted))
            rows.append({**raw, **_sensors(wanted)})
        if target is not None:
            write_records(target, {**values, "frames": rows})
    return painted


def _sensors(frame: Frame) -> dict[str, Any]:
    """What a second-stage frame says of its sensors."""
    cameras = {name.lower(): camera_dict(frame.cameras[name]) if name in frame.cameras else {} for name in CAMERA_NAMES}
    return {"camera_dict": cameras, "lidar_path": frame.lidar_path}
