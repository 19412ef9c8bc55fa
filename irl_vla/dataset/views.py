"""Shifted-ego views: the same moment seen from beside the logged path, and the way back to it.

Imitation on logged states alone never sees its own mistakes; a view puts the ego where a mistake would have put it.
Nobody drove from there: a view has no human plan, but a plan to imitate, its way back.
"""

import hashlib
from dataclasses import replace
from typing import Final

import numpy as np

from irl_vla.dataset.config import ViewConfig
from irl_vla.geometry import Floats, compose, relative_to, rotate
from irl_vla.scene import FUTURE_FRAMES, Boxes, Camera, Frame, Scene

#: Least length of the way back to the logged path, and its duration at speed.
_RETURN_M: Final = 8.0
_RETURN_S: Final = 3.0


def scene_views(scene: Scene, config: ViewConfig, seed: int) -> list[Scene]:
    """Shifted variants of a scene (without the original), tokens ``<token>-s1``, ``<token>-s2``, ...

    The offsets depend on seed and token alone, so that a scene gets the same views on every machine and in every order.
    Nothing checks whether a shifted ego touches an object or leaves the road; the score of its plans says so.
    """
    digest = hashlib.sha256(scene.token.encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    bounds = np.array([config.longitudinal_m, config.lateral_m, config.heading_rad])
    offsets = generator.uniform(-bounds, bounds, size=(config.count, 3))
    return [
        replace(shifted_scene(scene, offset), token=f"{scene.token}-s{number}")
        for number, offset in enumerate(offsets, start=1)
    ]


def shifted_scene(scene: Scene, offset: Floats) -> Scene:
    """Moves the ego of all history frames rigidly, so that the current pose moves by ``offset`` (3,) in its own frame.

    Poses relative to the current one, velocities and accelerations in the ego's axes, and the command stay as they
    were; the world stays where it was, and the future is the logged one. Cameras and sweeps are those recorded: their
    calibration is re-expressed for the shifted ego. ``logged_pose_global`` tells where the log had the ego.
    """
    origin = scene.current.ego.pose_global
    logged = origin if scene.logged_pose_global is None else scene.logged_pose_global
    moved_origin = compose(origin, offset)
    history = []
    for frame in scene.history:
        pose = compose(moved_origin, relative_to(origin, frame.ego.pose_global))
        history.append(_seen_from(frame, pose))
    return replace(scene, frames=(*history, *scene.future), logged_pose_global=logged)


def imitated_plan(scene: Scene) -> Floats | None:
    """(8, 3) what imitation learns: the human plan, or from a shifted view the way back to it.

    None where there is neither: second-stage scenes, and scenes without a future.
    """
    if scene.has_human:
        return scene.human_plan()
    if scene.logged_pose_global is None or len(scene.future) < FUTURE_FRAMES:
        return None
    return recovery_plan(scene, scene.logged_pose_global)


def recovery_plan(view: Scene, logged_pose_global: Floats) -> Floats:
    """(8, 3) what a driver in a shifted view would do: keep the logged pace and swing back to the logged path.

    The lateral offset falls from its start to zero along the way (a cubic that begins in the shifted heading), over
    three seconds of driving but at least 8 m; a car that stands stays where it is. The offset along the path remains.
    Following the logged poses from the next half second on would teach a swerve.

    Args:
        logged_pose_global: (3,) where the log had the ego in the current frame.
    """
    plan = relative_to(logged_pose_global, np.stack([frame.ego.pose_global for frame in view.future[:FUTURE_FRAMES]]))
    offset = relative_to(logged_pose_global, view.current.ego.pose_global)
    if not offset.any():
        return plan
    steps = np.hypot(*np.diff(plan[:, :2], axis=0, prepend=np.zeros((1, 2))).T)
    length = max(_RETURN_M, _RETURN_S * float(np.hypot(*view.current.ego.velocity_mps)))
    way = np.clip(np.cumsum(steps) / length, 0.0, 1.0)
    slope = np.tan(offset[2])
    aside = offset[1] * (2 * way**3 - 3 * way**2 + 1) + slope * length * (way**3 - 2 * way**2 + way)
    turn = np.arctan(offset[1] * 6 * (way**2 - way) / length + slope * (3 * way**2 - 4 * way + 1))
    shifted = np.stack([np.full(FUTURE_FRAMES, offset[0]), aside, turn], axis=1)
    return relative_to(offset, compose(plan, shifted))


def _seen_from(frame: Frame, pose_global: Floats) -> Frame:
    """The frame with its ego at another pose: boxes, cameras and sweep re-expressed, world unchanged."""
    old = relative_to(pose_global, frame.ego.pose_global)
    return replace(
        frame,
        ego=replace(frame.ego, pose_global=pose_global),
        objects=_moved_boxes(frame.objects, old),
        cameras={name: _moved_camera(camera, old) for name, camera in frame.cameras.items()},
        sweep_pose=old if frame.sweep_pose is None else compose(old, frame.sweep_pose),
    )


def _moved_boxes(objects: Boxes, frame_pose: Floats) -> Boxes:
    """Boxes given in the frame at ``frame_pose`` (3,), in the frame in which that pose is given."""
    boxes, velocity = objects.boxes.copy(), objects.velocity_mps.copy()
    boxes[:, :2] = frame_pose[:2] + rotate(boxes[:, :2], frame_pose[2])
    boxes[:, 6] += frame_pose[2]
    velocity[:, :2] = rotate(velocity[:, :2], frame_pose[2])
    return replace(objects, boxes=boxes, velocity_mps=velocity)


def _moved_camera(camera: Camera, frame_pose: Floats) -> Camera:
    turn = np.eye(3)
    turn[:2, :2] = rotate(np.eye(2), frame_pose[2]).T
    shift = np.array([frame_pose[0], frame_pose[1], 0.0])
    return replace(camera, rotation=turn @ camera.rotation, translation_m=turn @ camera.translation_m + shift)
