"""Generated frames a second on one core: ``python benchmarks/generation.py [--logs 46]``.

Claims: at least 100 frames a second without sensors, at least 8 with three cameras of 480 x 270 pixels and the default
LiDAR. Whole logs are made as ``irl-vla generate`` makes them: simulated (attempts that are drawn again included),
painted and written. Road networks and maps, which all logs of a layout share, are made before. Baseline: the same logs
without sensors. Times are CPU seconds of this process, so that other load on the machine does not count.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2

from irl_vla.world.config import SplitSizeConfig, WorldConfig, WorldSensorConfig
from irl_vla.world.generate import generate, generate_log
from irl_vla.world.plan import LogPlan, log_plans

LAYOUTS = 16


def world(logs: int, sensors: WorldSensorConfig | None) -> WorldConfig:
    """A test split of ``logs`` drives on every family of roads."""
    few = SplitSizeConfig(logs=2, layouts=2)
    size = SplitSizeConfig(logs=logs, layouts=LAYOUTS)
    return WorldConfig(train=few, val=few, test=size, frames_per_log=24, sensors=sensors)


def frames_a_second(config: WorldConfig, root: Path, plans: list[LogPlan], seed: int) -> float:
    """Of all logs together, by CPU time."""
    start = time.process_time()
    for plan in plans:
        generate_log(config, root, seed, plan)
    return len(plans) * config.frames_per_log / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=46, help="without sensors; every kind is drawn alike often")
    parser.add_argument("--painted", type=int, default=6, help="logs with sensors")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    bare = world(options.logs, None)
    painted = world(options.logs, WorldSensorConfig(image_height_px=270, image_width_px=480))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate(bare, root, options.seed)  # maps and networks; also compiles
        plans = [plan for plan in log_plans(bare, options.seed) if plan.layout.split == "test"]
        simulated = frames_a_second(bare, root, plans, options.seed)
        every = max(len(plans) // options.painted, 1)
        some = plans[::every][: options.painted]
        sensed = frames_a_second(painted, root, some, options.seed)
    print(f"{len(plans)} logs without sensors: {simulated:6.1f} frames a second")
    print(
        f"{len(some)} logs with three 480 x 270 cameras and LiDAR: {sensed:6.1f} frames a second: "
        f"sensors cost {simulated / sensed:.0f} x"
    )


if __name__ == "__main__":
    main()
