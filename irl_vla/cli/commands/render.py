"""``irl-vla render``: paints camera images and LiDAR sweeps for logs and second-stage scenes that lack them."""

import argparse
from pathlib import Path

SUMMARY = "paint camera images and LiDAR sweeps for logs and second-stage scenes that lack them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("root", type=Path, help="data set with navsim_logs; second stages of its splits, too")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--output", type=Path, metavar="ROOT", help="new data set: logs with our rig, what exists linked"
    )
    where.add_argument("--in-place", action="store_true", help="only files that are named and that are missing")
    parser.add_argument("--maps", type=Path, metavar="ROOT", help="folder of the maps (default: ROOT/maps)")
    parser.add_argument("--splits", type=Path, metavar="ROOT", help="split files (default: ROOT/train_test_split)")
    parser.add_argument("--split", nargs="+", default=[], metavar="NAME", help="only these splits (default: all)")
    parser.add_argument(
        "--cameras", nargs="+", metavar="CAM", help="cameras of the rig (default: CAM_L0 CAM_F0 CAM_R0)"
    )
    parser.add_argument("--width", type=int, default=256, help="of the images in pixels (default: 256)")
    parser.add_argument("--height", type=int, default=144, help="of the images in pixels (default: 144)")
    parser.add_argument("--no-lidar", action="store_true", help="paint no sweeps")
    parser.add_argument("--seed", type=int, default=0, help="of the LiDAR's noise")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, logs and scenes are spread over them"
    )


def run(options: argparse.Namespace) -> int:
    """Status 0: all is painted; 2: bad input; 130: interrupted, the same command goes on."""
    from irl_vla.cli.outcome import exit_status

    return exit_status(lambda: _render(options))


def _render(options: argparse.Namespace) -> None:
    import logging
    import time
    from functools import partial

    from irl_vla.config import validated
    from irl_vla.dataset.checks.dataset import log_names, split_groups
    from irl_vla.dataset.config import DataConfig
    from irl_vla.dataset.layout import open_dataset
    from irl_vla.dataset.spread import spread
    from irl_vla.ledger.progress import progress
    from irl_vla.world.config import WorldSensorConfig
    from irl_vla.world.painted_follow_ups import begin_second_stage, paint_pair, second_stage_pairs
    from irl_vla.world.painted_logs import PaintJob, begin_output, paint_log

    values = {"image_width_px": options.width, "image_height_px": options.height}
    values |= {"cameras": options.cameras} if options.cameras else {}
    values |= {"lidar": None} if options.no_lidar else {}
    sensors = validated(WorldSensorConfig, values, source="irl-vla render")
    source = open_dataset(DataConfig(root=options.root, maps_root=options.maps, splits_root=options.splits))
    groups = split_groups(source, options.split)
    jobs = {folder: log_names(source, folder, [split.scene_filter for split in found]) for folder, found in groups}
    second = {split.name: second_stage_pairs(source, split) for _, found in groups for split in found}
    if options.output is not None:
        begin_output(source, options.output, sensors, options.seed)
    start, frames, images, sweeps = time.monotonic(), 0, 0, 0
    total = sum(map(len, jobs.values())) + sum(map(len, second.values()))
    with progress("render", "logs and pairs", total) as shown:
        for folder, names in jobs.items():
            job = PaintJob(source, folder, options.output, sensors, options.seed)
            for painted in spread(partial(paint_log, job), names, options.workers):
                frames, images, sweeps = frames + painted.frames, images + painted.images, sweeps + painted.sweeps
                shown.advance()
        for split, pairs in second.items():
            job = PaintJob(source, split, options.output, sensors, options.seed, is_second_stage=True)
            if pairs:
                begin_second_stage(job)
            for painted in spread(partial(paint_pair, job), pairs, options.workers):
                frames, images, sweeps = frames + painted.frames, images + painted.images, sweeps + painted.sweeps
                shown.advance()
    seconds = time.monotonic() - start
    logging.getLogger("render").info(
        "painted %d frames (%d images, %d sweeps) in %.0f s, %.1f frames/s",
        frames,
        images,
        sweeps,
        seconds,
        frames / seconds,
    )
