"""Planners without learning: the marks that a trained policy has to beat.

All of them plan from a :class:`PreparedScene`; plans are (8, 3) rear-axle poses in the ego frame, 0.5 s apart.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.records import PreparedScene
from irl_vla.epdms.scorer import score_plans
from irl_vla.errors import SceneError
from irl_vla.geometry import Floats, relative_to
from irl_vla.scene import FUTURE_FRAMES, PLAN_INTERVAL_S

#: Plan times after the current frame, seconds.
PLAN_TIMES_S: Final = PLAN_INTERVAL_S * np.arange(1, FUTURE_FRAMES + 1)
#: Accelerations among which :func:`best_constant_acceleration` chooses.
ACCELERATIONS_MPS2: Final = (-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
_REFERENCE_STEPS_A_POSE: Final = 5


def constant_velocity(scene: PreparedScene) -> Floats:
    """Straight on at the current speed (NAVSIM's ``ConstantVelocityAgent``)."""
    return constant_acceleration(scene, 0.0)


def constant_acceleration(scene: PreparedScene, acceleration_mps2: float) -> Floats:
    """Straight on at one acceleration; a braking ego stops and stays."""
    speed = float(np.hypot(scene.ego_state[3], scene.ego_state[4]))
    times = PLAN_TIMES_S
    if acceleration_mps2 < 0:
        times = np.minimum(times, speed / -acceleration_mps2)
    plan = np.zeros((FUTURE_FRAMES, 3))
    plan[:, 0] = speed * times + acceleration_mps2 / 2 * times**2
    return plan


def human(scene: PreparedScene) -> Floats:
    """The logged drive.

    Raises:
        SceneError: for a scene that no human drove (second-stage scenes, shifted views).
    """
    if scene.human_plan is None:
        raise SceneError(
            f"{scene.token}: has no human plan (second-stage scene or shifted view); leave the human baseline out"
        )
    return scene.human_plan


def reference(scene: PreparedScene) -> Floats:
    """The PDM-Closed planner, which sees the true traffic: a ceiling for rule-based driving, not a fair rival."""
    steps = _REFERENCE_STEPS_A_POSE * np.arange(1, FUTURE_FRAMES + 1)
    return relative_to(scene.ego_state[:3], scene.reference_poses[steps])


def best_constant_acceleration(scenes: Iterable[PreparedScene], config: ScorerConfig) -> tuple[float, Floats]:
    """The one acceleration that scores best when driven in every scene.

    In EPDMS braking hard is a strong cheat (a standing ego keeps TTC, LK and HC), so a learned policy that does not
    beat this number has learned nothing about its scenes.

    Returns:
        The acceleration and the (14,) mean scores of ``ACCELERATIONS_MPS2``.
    """
    scores = []
    for scene in scenes:
        plans = np.stack([constant_acceleration(scene, value) for value in ACCELERATIONS_MPS2])
        scores.append(score_plans(scene, plans, config).score)
    means = np.mean(scores, axis=0)
    return ACCELERATIONS_MPS2[int(np.argmax(means))], means
