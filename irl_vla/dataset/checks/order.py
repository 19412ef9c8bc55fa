"""Rules between the frames of a log: time, scenes, links to neighbours, and what one log has one of.

Values of a wrong type are findings of their frame and are passed over here.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from irl_vla.dataset.checks.findings import Breach
from irl_vla.dataset.log import parse_city
from irl_vla.dataset.raw_frame import RawFrame, describe
from irl_vla.scene import MAX_PAIR_GAP_US

#: Longer steps between frames are gaps: the two frames are no pair for extended comfort.
GAP_S: Final = MAX_PAIR_GAP_US / 1e6
_SHORTEST_STEP_S: Final = 0.4
#: Keys with one value a log, and with one value a scene.
_OF_LOG: Final = ("log_token", "vehicle_name")
_OF_SCENE: Final = "scene_name"


def order_breaches(frames: Sequence[RawFrame]) -> Iterator[tuple[int, Breach]]:
    """What does not fit between frames, with the frame's index.

    Args:
        frames: those that could be read, in order.
    """
    first = frames[0].values.get("frame_idx") if frames and frames[0].index == 0 else None
    if isinstance(first, int) and first != 0:
        yield 0, _links("frame_idx", "0 where a scene begins", first)
    for before, after in pairwise(frames):
        if after.index == before.index + 1:
            step_s = (after.integer("timestamp") - before.integer("timestamp")) / 1e6
            for breach in (*_time(step_s), *_neighbours(before, after), *_scene(before, after, step_s)):
                yield after.index, breach
    yield from _instances(frames)


def _time(step_s: float) -> Iterator[Breach]:
    if step_s <= 0:
        yield "error", "frame.timestamp", "timestamp", f"expected a later time than the frame before, found {step_s} s"
    elif step_s > GAP_S:
        yield "warning", "frame.gap", "timestamp", f"expected 0.5 s since the frame before, found {step_s:.2f} s"
    elif step_s < _SHORTEST_STEP_S:
        yield "warning", "frame.step", "timestamp", f"expected 0.5 s since the frame before, found {step_s:.2f} s"


def _neighbours(before: RawFrame, after: RawFrame) -> Iterator[Breach]:
    if parse_city(before) != parse_city(after):
        yield "warning", "frame.map", "map_location", "expected one city a log, found another than the frame before"
    for key in _OF_LOG:
        yield from _same(before, after, key, "a log")
    previous, following = after.values.get("sample_prev"), before.values.get("sample_next")
    if isinstance(previous, str) and previous != before.text("token"):
        yield _links("sample_prev", "the token of the frame before or None", previous)
    if isinstance(following, str) and following != after.text("token"):
        yield _links("sample_next", "of the frame before this token or None", following)


def _scene(before: RawFrame, after: RawFrame, step_s: float) -> Iterator[Breach]:
    """Frames are numbered in their scene; those behind dropped ones may have kept their numbers."""
    first, second = before.values.get("frame_idx"), after.values.get("frame_idx")
    scenes = before.values.get("scene_token"), after.values.get("scene_token")
    if not all(isinstance(scene, str) for scene in scenes):
        return
    if scenes[0] == scenes[1]:
        yield from _same(before, after, _OF_SCENE, "a scene")
    if not (isinstance(first, int) and isinstance(second, int)):
        return
    rise = second - first
    if scenes[0] != scenes[1]:
        if second != 0:
            yield _links("frame_idx", "0 where a scene begins", second)
    elif rise < 1 or (rise > 1 and step_s <= GAP_S):
        yield _links("frame_idx", f"{first + 1} behind {first}", second)


def _same(before: RawFrame, after: RawFrame, key: str, whole: str) -> Iterator[Breach]:
    first, second = before.values.get(key), after.values.get(key)
    if isinstance(first, str) and isinstance(second, str) and first != second:
        yield _links(key, f"one for all frames of {whole}, {first[:40]!r}", second[:40])


def _links(key: str, expected: str, found: Any) -> Breach:
    return "warning", "frame.links", key, f"expected {expected}, found {describe(found)}"


def _instances(frames: Sequence[RawFrame]) -> Iterator[tuple[int, Breach]]:
    """An instance token is of one box in one frame; repeats within a frame are findings of the frame."""
    seen: set[str] = set()
    for raw in frames:
        if "anns" not in raw.values:
            continue
        own = {token for token in raw.inner("anns").sequence("instance_tokens") if isinstance(token, str)}
        if own & seen:
            text = f"expected another one for each box and frame, found {min(own & seen)[:40]!r} of an earlier frame"
            yield raw.index, ("warning", "frame.tracks", "anns.instance_tokens", text)
        seen |= own
