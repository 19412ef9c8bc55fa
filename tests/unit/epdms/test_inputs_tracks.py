from dataclasses import replace

import numpy as np
import pytest

from irl_vla.epdms.tracks import FrameObjects, frame_objects, interpolate_tracks
from irl_vla.errors import SceneError
from irl_vla.scene import Boxes

from .driving_scene import frame


def objects(*rows):
    """Rows (token, kind, x, heading, vx)."""
    return FrameObjects(
        tokens=tuple(row[0] for row in rows),
        kinds=np.array([row[1] for row in rows], np.int64),
        sizes=np.array([[4.0, 2.0]] * len(rows)).reshape(-1, 2),
        poses=np.array([[row[2], 1.0, row[3]] for row in rows]).reshape(-1, 3),
        velocities=np.array([[row[4], 0.0] for row in rows]).reshape(-1, 2),
    )


def test_boxes_move_to_the_global_frame():
    item = frame(3)
    ego = replace(item.ego, pose_global=np.array([100.0, 50.0, np.pi / 2]))
    boxes = Boxes(
        boxes=np.array([[10.0, 0, 0, 1, 1, 1, 0], [3, 2, 0, 4, 2, 1, 3.0], [0, 0, 0, 5, 2, 1, 0]]),
        names=("barrier", "vehicle", "ego"),
        velocity_mps=np.array([[9.0, 9, 9], [5, 1, 0], [8, 0, 0]]),
        track_tokens=("b", "v", "e"),
    )
    found = frame_objects(replace(item, ego=ego, objects=boxes))
    assert found.tokens == ("v", "b")  # sorted by kind, without the ego
    assert found.kinds.tolist() == [0, 4]
    assert found.sizes.tolist() == [[4, 2], [1, 1]]
    heading = 3.0 + np.pi / 2 - 2 * np.pi
    np.testing.assert_allclose(found.poses, [[98, 53, heading], [100, 60, np.pi / 2]], atol=1e-12)
    np.testing.assert_allclose(found.velocities, [[-1, 5], [0, 0]], atol=1e-12)


def test_unknown_names_are_refused():
    item = frame(3, objects=(("hovercraft", "h", 0.0, 0.0, 0.0, 0.0),))
    with pytest.raises(SceneError, match="hovercraft"):
        frame_objects(item)


def test_tracks_are_linear_between_frames_and_across_gaps():
    frames = [objects(("a", 0, 5.0 * i, 0.0, float(i))) if i in (1, 2, 5) else objects() for i in range(9)]
    tracks = interpolate_tracks(frames)
    assert np.flatnonzero(tracks.present[0]).tolist() == list(range(5, 26))
    np.testing.assert_allclose(tracks.poses[0, 5:26, 0], np.arange(5.0, 26.0))
    np.testing.assert_allclose(tracks.velocities[0, 5:26, 0], np.arange(5.0, 26.0) / 5)
    assert not tracks.poses[0, 26:].any()


def test_headings_turn_the_short_way_round():
    frames = [objects(("a", 0, 0.0, 3.1, 0.0)), objects(("a", 0, 0.0, -3.1, 0.0)), *[objects()] * 7]
    headings = interpolate_tracks(frames).poses[0, :6, 2]
    assert (np.abs(headings) > 3.09).all()


def test_a_token_of_one_frame_is_everywhere_as_it_was():
    tracks = interpolate_tracks([*[objects()] * 7, objects(("a", 0, 9.0, 0.3, 4.0)), objects()])
    assert tracks.present.all()
    assert (tracks.poses[0] == [9.0, 1.0, 0.3]).all()
    assert (tracks.velocities[0] == [4.0, 0.0]).all()


def test_tracks_are_sorted_by_kind_and_keep_their_first_kind():
    first = objects(("cone", 3, 0.0, 0.0, 0.0), ("car", 0, 0.0, 0.0, 0.0))
    then = objects(("walker", 1, 0.0, 0.0, 0.0), ("cone", 6, 0.0, 0.0, 0.0), ("car", 0, 0.0, 0.0, 0.0))
    tracks = interpolate_tracks([first, *[then] * 8])
    assert tracks.tokens == ("car", "walker", "cone")
    assert tracks.kinds.tolist() == [0, 1, 3]
