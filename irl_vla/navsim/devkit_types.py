"""The NAVSIM devkit's types that this project touches: stand-ins for its files, what its agents are given, the import.

Files are written and read through stand-ins under the official names, without the devkit. Its own classes are imported
only where its own programs run, when they ask for an agent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol

from irl_vla.dataset.safe_pickle import AllowedNames
from irl_vla.errors import ConfigError

_DATACLASSES: Final = "navsim.common.dataclasses"
_AGENTS: Final = "navsim.agents.abstract_agent"
_SAMPLING: Final = "nuplan.planning.simulation.trajectory.trajectory_sampling"


@dataclass(frozen=True, eq=False)
class TrajectorySampling:
    """At which times a trajectory has poses.

    An object of a foreign file may hold anything in its fields, and None in those that the file leaves out.
    """

    num_poses: Any = None
    time_horizon: Any = None
    interval_length: Any = None

    def __setstate__(self, state: Any) -> None:
        _take(self, state)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A plan as the devkit keeps it: ``poses`` (T, 3) float32 in the ego frame; fields as in the sampling."""

    poses: Any = None
    trajectory_sampling: Any = None

    def __setstate__(self, state: Any) -> None:
        _take(self, state)


#: The classes of a submission by the (module, name) that its file refers to.
SUBMISSION_CLASSES: Final[AllowedNames] = {
    (_DATACLASSES, "Trajectory"): Trajectory,
    (_SAMPLING, "TrajectorySampling"): TrajectorySampling,
}


class EgoStatus(Protocol):
    """Ego of one history frame, float32.

    Attributes:
        ego_pose: (3,) relative to the current rear axle.
        ego_velocity, ego_acceleration: (2,) in this frame's own ego axes.
        driving_command: (4,) one-hot of left, straight, right, unknown.
    """

    ego_pose: Any
    ego_velocity: Any
    ego_acceleration: Any
    driving_command: Any
    in_global_frame: bool


class Camera(Protocol):
    """One camera of one history frame; every field is None where it was not loaded.

    Attributes:
        image: (h, w, 3) uint8 RGB as stored.
        sensor2lidar_rotation, sensor2lidar_translation: (3, 3), (3,) camera -> ego.
        intrinsics, distortion: (3, 3), (5,).
    """

    image: Any
    sensor2lidar_rotation: Any
    sensor2lidar_translation: Any
    intrinsics: Any
    distortion: Any


class Lidar(Protocol):
    """A sweep (6, n) float32 in its own frame's ego frame, or None."""

    lidar_pc: Any


class AgentInput(Protocol):
    """What an agent is given: four history frames, the last being the current one."""

    @property
    def ego_statuses(self) -> Sequence[EgoStatus]:
        """One a frame."""

    @property
    def cameras(self) -> Sequence[Any]:
        """One a frame, with a :class:`Camera` under each of ``cam_f0`` .. ``cam_b0``."""

    @property
    def lidars(self) -> Sequence[Lidar]:
        """One a frame."""


@dataclass(frozen=True, slots=True)
class Devkit:
    """The devkit's own classes."""

    abstract_agent: Any
    sensor_config: Any
    trajectory: Any
    trajectory_sampling: Any


def import_devkit() -> Devkit:
    """The classes of the installed devkit.

    Raises:
        ConfigError: if it is not there, or something else answers to its name.
    """
    try:
        dataclasses, agents, sampling = (import_module(name) for name in (_DATACLASSES, _AGENTS, _SAMPLING))
        return Devkit(
            abstract_agent=agents.AbstractAgent,
            sensor_config=dataclasses.SensorConfig,
            trajectory=dataclasses.Trajectory,
            trajectory_sampling=sampling.TrajectorySampling,
        )
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"expected the NAVSIM devkit and nuplan-devkit in this Python, found: {error}; clone "
            "github.com/autonomousvision/navsim and install it from there (docs/navsim.md). The package 'navsim' on "
            "PyPI is an unrelated project: uninstall it if it is here"
        ) from error


def _take(record: Any, state: Any) -> None:
    """State of an object in a file; called on the class itself, as a hostile file may, it lacks an argument."""
    for name in record.__dataclass_fields__:
        object.__setattr__(record, name, state.get(name))
