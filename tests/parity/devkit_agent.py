# mypy: disable-error-code="import-not-found"
"""The devkit's classes meet our files and our agent: ``python -m tests.parity.devkit_agent REQUEST ANSWER``.

As :mod:`tests.parity.devkit_scores`, but with the real torch, of which the devkit's agents are made.
"""

import json
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.parity.devkit_scores import instantiate
from tests.parity.stand_ins import DEVKIT_LIBRARIES, install


def submitted(path: Path) -> dict[str, Any]:
    """Plans of a submission, loaded as the devkit does."""
    from navsim.common.dataclasses import Trajectory
    from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

    (plans,) = pickle.loads(path.read_bytes())["predictions"]
    official = TrajectorySampling(time_horizon=4, interval_length=0.5)
    for token, plan in plans.items():
        if type(plan) is not Trajectory or plan.trajectory_sampling != official or plan.poses.dtype != np.float32:
            raise SystemExit(f"{token}: expected a Trajectory of float32 poses over 4 s, found {plan}")
    return {token: plan.poses.tolist() for token, plan in plans.items()}


def driven(request: dict[str, Any]) -> dict[str, Any]:
    """Plans of our agent, made from its settings, in the scenes of the devkit's loader."""
    from navsim.agents.abstract_agent import AbstractAgent
    from navsim.common.dataclasses import SensorConfig
    from navsim.common.dataloader import SceneLoader

    settings = yaml.safe_load(Path(request["settings"]).read_text())
    agent = instantiate(settings | {"checkpoint": request["checkpoint"], "allow_missing_sensors": True}, {})
    if not isinstance(agent, AbstractAgent) or not isinstance(agent.get_sensor_config(), SensorConfig):
        raise SystemExit(f"expected an AbstractAgent that names its sensors, found {agent}")
    agent.initialize()
    loader = SceneLoader(
        data_path=Path(request["logs"]),
        original_sensor_path=None,
        scene_filter=instantiate(yaml.safe_load(Path(request["file"]).read_text())["scene_filter"], {}),
        sensor_config=SensorConfig.build_no_sensors(),  # the data set has none
    )
    plans = {token: agent.compute_trajectory(loader.get_agent_input_from_token(token)) for token in loader.tokens}
    return {"name": agent.name(), "plans": {token: plan.poses.tolist() for token, plan in plans.items()}}


def main(request_path: Path, answer_path: Path) -> None:
    request = json.loads(request_path.read_text())
    sys.path[:0] = request["checkouts"]
    # What is installed stays itself; torchvision would be asked for its version if it seemed to be there.
    install([name for name in DEVKIT_LIBRARIES if name != "torchvision" and find_spec(name) is None])
    answer = {"submitted": submitted(Path(request["submission"])), "driven": driven(request)}
    answer_path.write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
