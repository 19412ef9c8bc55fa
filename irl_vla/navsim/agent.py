"""An agent for the official devkit: its inputs to our readings, then the code that every other plan goes through.

The devkit's base class exists only where the devkit does, so the agent's class is made when an agent is asked for:
``irl_vla.navsim.agent.irl_vla_agent`` is the ``_target_`` of ``config/irl_vla_agent.yaml``.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from irl_vla.config import validated
from irl_vla.dataset.config import SensorConfig
from irl_vla.dataset.features import OBSERVED_ROWS, Readings, observe
from irl_vla.errors import ConfigError, SceneError
from irl_vla.geometry import Floats
from irl_vla.navsim.devkit_types import AgentInput, EgoStatus, import_devkit
from irl_vla.navsim.devkit_types import Camera as DevkitCamera
from irl_vla.policy import deployment
from irl_vla.policy.config import sensor_config
from irl_vla.policy.vla import load_policy, perception_hash, token_layout
from irl_vla.reward.candidates import best_plan
from irl_vla.reward.config import CandidateConfig
from irl_vla.reward.model import load_reward_model
from irl_vla.scene import CAMERA_NAMES, COMMAND_NAMES, FUTURE_FRAMES, HISTORY_FRAMES, PLAN_INTERVAL_S, Camera

#: Hydra settings of the agent, to be copied into the devkit's ``config/common/agent`` folder.
CONFIG_PATH: Final = Path(__file__).parent / "config" / "irl_vla_agent.yaml"
NAME: Final = "irl_vla"
#: The devkit tells no token; errors name this.
_TOKEN: Final = "agent input"


def irl_vla_agent(
    checkpoint: str,
    trajectory_sampling: Any = None,
    device: str = "cpu",
    allow_missing_sensors: bool = False,
    *,
    reward: str | None = None,
    candidates: Mapping[str, Any] | None = None,
) -> Any:
    """An agent of the devkit that drives one of our policies.

    Args:
        checkpoint: folder of a policy's checkpoint, or of a training seed (its best one) or experiment of one seed.
        trajectory_sampling: the devkit's; None, or 8 poses every 0.5 s, which is what the policies plan.
        device: of torch, where the policy runs.
        allow_missing_sensors: True takes a blank image or an empty sweep where the devkit gives none (second-stage
            scenes have no LiDAR); False makes it an error.
        reward: folder of the reward's checkpoint, which then chooses the best of many plans; None drives the
            deterministic one. The devkit asks for one moment at a time, so no moment knows what was chosen before.
        candidates: settings of that choice, as ``evaluate.candidates``; None takes the defaults.

    Raises:
        ConfigError: if the devkit is not there, another sampling is asked for, or a setting is unfit.
    """
    devkit = import_devkit()
    sampling = trajectory_sampling or devkit.trajectory_sampling(
        num_poses=FUTURE_FRAMES, interval_length=PLAN_INTERVAL_S
    )
    if (sampling.num_poses, sampling.interval_length) != (FUTURE_FRAMES, PLAN_INTERVAL_S):
        raise ConfigError(
            f"trajectory_sampling: expected {FUTURE_FRAMES} poses every {PLAN_INTERVAL_S} s, as the policies plan, "
            f"found {sampling.num_poses} every {sampling.interval_length} s"
        )
    choice = validated(CandidateConfig, dict(candidates or {}), source="candidates")
    chosen_by = None if reward is None else (Path(reward), choice)
    return _agent_class()(Path(checkpoint), sampling, device, allow_missing_sensors, chosen_by)


def devkit_sensors(config: SensorConfig) -> dict[str, list[int] | bool]:
    """Arguments of the devkit's ``SensorConfig``: history indices by sensor, False for what is not read."""
    cameras = {name.lower(): [HISTORY_FRAMES - 1] if name in config.cameras else False for name in CAMERA_NAMES}
    return {**cameras, "lidar_pc": list(config.lidar_history) or False}


def devkit_readings(agent_input: AgentInput, config: SensorConfig) -> Readings:
    """What an agent is given, in our terms.

    Raises:
        SceneError: if history or command are impossible, a sensor has another form, or one that is needed is missing.
    """
    for name in ("ego_statuses", "cameras", "lidars"):
        if (count := len(getattr(agent_input, name))) != HISTORY_FRAMES:
            raise SceneError(f"{_TOKEN}: {name}: expected {HISTORY_FRAMES} history frames, found {count}")
    images = {}
    for name in config.cameras:
        given: DevkitCamera = getattr(agent_input.cameras[-1], name.lower())
        if given.image is not None:
            images[str(name)] = (_image(name, given.image), _camera(given))
        elif not config.allow_missing:
            raise _missing(name)
    sweeps: list[Any] = []
    for index, lidar in enumerate(agent_input.lidars):
        wanted = index in config.lidar_history
        if wanted and lidar.lidar_pc is None and not config.allow_missing:
            raise _missing(f"LiDAR sweep of history frame {index}")
        sweeps.append(_sweep(index, lidar.lidar_pc) if wanted and lidar.lidar_pc is not None else None)
    statuses = agent_input.ego_statuses
    return Readings(images, sweeps, np.stack([_motion(status) for status in statuses]), _command(statuses[-1]))


@cache
def _agent_class() -> Any:
    """The agent's class below the devkit's own base class."""
    devkit = import_devkit()

    class IrlVlaAgent(devkit.abstract_agent):  # type: ignore[misc, name-defined]
        """Plans by a policy's deterministic chain, or the best of many by the learned reward."""

        def __init__(
            self,
            checkpoint: Path,
            sampling: Any,
            device: str,
            allow_missing: bool,
            chosen_by: tuple[Path, CandidateConfig] | None,
        ) -> None:
            super().__init__(trajectory_sampling=sampling, requires_scene=False)
            self._checkpoint, self._sampling = checkpoint, sampling
            self._device, self._allow_missing = device, allow_missing
            self._chosen_by = chosen_by
            self._policy: Any = None
            self._planner: Any = None
            self._sensors: Any = None

        def name(self) -> str:
            """What the devkit calls it in its results."""
            return NAME

        def initialize(self) -> None:
            """Loads policy and reward from local files; the devkit calls it once in every worker."""
            policy, config = load_policy(deployment.checkpoint_folder(self._checkpoint))
            self._policy = policy.to(self._device)
            self._planner = partial(deployment.plan_of, self._policy)
            if self._chosen_by is not None:
                reward, candidates = self._chosen_by
                models = load_reward_model(reward, perception_hash(policy.encoder), token_layout(config.encoder))
                placed = tuple(model.to(self._device) for model in models)
                self._planner = partial(best_plan, self._policy, placed, candidates)
            self._sensors = sensor_config(config.encoder, self._allow_missing)

        def get_sensor_config(self) -> Any:
            """The sensors that the policy reads; some scripts ask before they initialise the agent."""
            self._load_once()
            return devkit.sensor_config(**devkit_sensors(self._sensors))

        def compute_trajectory(self, agent_input: AgentInput) -> Any:
            """The plan for one moment."""
            self._load_once()
            observation = observe(_TOKEN, devkit_readings(agent_input, self._sensors), self._sensors)
            plan = self._planner(observation)
            return devkit.trajectory(plan.astype(np.float32), self._sampling)

        def _load_once(self) -> None:
            if self._policy is None:
                self.initialize()

    return IrlVlaAgent


def _motion(status: EgoStatus) -> Floats:
    """(7,) x, y, heading, vx, vy, ax, ay."""
    if getattr(status, "in_global_frame", False):
        raise SceneError(f"{_TOKEN}: ego_statuses: expected poses relative to the current rear axle, found global ones")
    parts = (status.ego_pose, status.ego_velocity, status.ego_acceleration)
    motion = np.concatenate([np.asarray(part, np.float64) for part in parts])
    if motion.shape != (7,):
        raise SceneError(f"{_TOKEN}: ego_statuses: expected pose (3,), velocity (2,), acceleration (2,), found {parts}")
    return motion


def _command(status: EgoStatus) -> int:
    command = np.asarray(status.driving_command)
    if command.shape != (len(COMMAND_NAMES),) or np.count_nonzero(command) != 1:
        raise SceneError(f"{_TOKEN}: driving_command: expected a one-hot of {COMMAND_NAMES}, found {command.tolist()}")
    return int(command.argmax())


def _image(name: str, image: Any) -> Any:
    found = np.asarray(image)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise SceneError(f"{_TOKEN}: {name}: expected an (h, w, 3) uint8 image, found {found.shape} {found.dtype}")
    return found


def _camera(given: DevkitCamera) -> Camera:
    return Camera(
        path="",
        rotation=np.asarray(given.sensor2lidar_rotation, np.float64),
        translation_m=np.asarray(given.sensor2lidar_translation, np.float64),
        intrinsic=np.asarray(given.intrinsics, np.float64),
        distortion=np.asarray(given.distortion, np.float64),
    )


def _sweep(index: int, sweep: Any) -> Any:
    found = np.asarray(sweep, np.float32)
    if found.ndim != 2 or found.shape[0] < OBSERVED_ROWS:
        raise SceneError(f"{_TOKEN}: LiDAR sweep of history frame {index}: expected (6, n), found {found.shape}")
    return found


def _missing(what: str) -> SceneError:
    return SceneError(
        f"{_TOKEN}: {what}: expected sensor data, found none; fetch the sensors of the split, or set "
        "allow_missing_sensors=true"
    )
