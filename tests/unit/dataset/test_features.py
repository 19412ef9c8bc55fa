from dataclasses import replace

import cv2
import numpy as np
import pytest

from irl_vla.dataset.config import SensorConfig
from irl_vla.dataset.features import build_observation, pinhole_image, scaled_intrinsic
from irl_vla.dataset.scenes import iter_scenes
from irl_vla.dataset.views import shifted_scene
from irl_vla.errors import LogFormatError, SceneError

from .example import frame, gradient, sweep

CONFIG = SensorConfig(cameras=("CAM_F0",), image_height_px=27, image_width_px=48, lidar_history=(1, 3))


@pytest.fixture(scope="module")
def scene(dataset):
    return next(iter_scenes(dataset, "train"))


def test_shapes_and_values(dataset, scene):
    observation = build_observation(scene, dataset, CONFIG)
    assert observation.token == scene.token
    assert observation.images.shape == (1, 27, 48, 3)
    assert observation.images.dtype == np.uint8
    assert observation.camera_valid.tolist() == [True]
    assert observation.command == 1
    np.testing.assert_allclose(observation.history[:, 0], [-15, -10, -5, 0], atol=1e-6)
    np.testing.assert_allclose(observation.history[:, 1:], [[0, 0, 10, 0, 0.5, 0]] * 4, atol=1e-6)
    np.testing.assert_array_equal(observation.camera_to_ego[0, :3, 3], [1.6, 0, 1.5])
    assert observation.instruction == (
        "What is your driving decision for the next four seconds? "
        "The ego vehicle drives at 10.0 m/s. Command: straight."
    )


def test_sweeps_lie_in_the_current_frame(dataset, scene):
    observation = build_observation(scene, dataset, CONFIG)
    assert [len(item) for item in observation.sweeps] == [0, 3, 0, 3]
    np.testing.assert_array_equal(observation.sweeps[3], sweep()[:4].T)
    # frame 1 was taken 10 m further back on a straight road
    np.testing.assert_allclose(observation.sweeps[1], sweep()[:4].T - [10, 0, 0, 0], atol=1e-5)
    assert observation.sweeps[1].dtype == np.float32


def test_the_future_is_never_read(dataset, scene):
    blind = replace(scene, frames=scene.frames[:4])
    full, cut = build_observation(scene, dataset, CONFIG), build_observation(blind, dataset, CONFIG)
    for name in ("images", "intrinsics", "camera_to_ego", "history"):
        np.testing.assert_array_equal(getattr(full, name), getattr(cut, name))


def test_missing_sensors_are_named_or_blank(dataset, scene):
    with pytest.raises(LogFormatError, match=f"frame {scene.token}: CAM_B0: .*no entry in the log"):
        build_observation(scene, dataset, CONFIG.model_copy(update={"cameras": ("CAM_F0", "CAM_B0")}))
    gone = replace(scene, frames=tuple(frame(index, log="gone") for index in range(12)))
    with pytest.raises(LogFormatError, match=rf"CAM_F0: .*no file gone/CAM_F0/{gone.current.token}\.jpg"):
        build_observation(gone, dataset, CONFIG)
    with pytest.raises(LogFormatError, match=r"LiDAR sweep: .*no file gone/MergedPointCloud/\w+\.pcd"):
        build_observation(gone, dataset, CONFIG.model_copy(update={"cameras": ()}))
    blank = build_observation(gone, dataset, CONFIG.model_copy(update={"allow_missing": True}))
    assert blank.camera_valid.tolist() == [False]
    assert not blank.images.any()
    assert [item.shape for item in blank.sweeps] == [(0, 4)] * 4


def test_other_sources_bring_their_own_calibration(scene):
    class Painted:
        def image(self, scene, frame, camera):
            return gradient(), replace(frame.cameras["CAM_F0"], translation_m=np.array([9.0, 0, 0]))

        def sweep(self, scene, frame):
            return np.ones((6, 2), np.float32)

    observation = build_observation(scene, Painted(), CONFIG)
    assert observation.camera_to_ego[0, 0, 3] == 9.0
    assert observation.sweeps[3].tolist() == [[1, 1, 1, 1]] * 2


def test_four_history_frames_are_needed(dataset, scene):
    with pytest.raises(SceneError, match="expected 4 history frames, found 3"):
        build_observation(replace(scene, num_history=3), dataset, CONFIG)


def test_shifted_view_sees_the_same_world(dataset, scene):
    """A sweep point and a pixel ray of the view, moved back to the map, are where they were."""
    offset = np.array([1.0, -0.5, 0.2])
    view = shifted_scene(scene, offset)
    plain, shifted = build_observation(scene, dataset, CONFIG), build_observation(view, dataset, CONFIG)

    def to_ego_of_scene(points):
        c, s = np.cos(offset[2]), np.sin(offset[2])
        return points @ np.array([[c, s], [-s, c]]) + offset[:2]

    for before, after in zip(plain.sweeps, shifted.sweeps, strict=True):
        np.testing.assert_allclose(to_ego_of_scene(after[:, :2]), before[:, :2], atol=1e-4)
        np.testing.assert_array_equal(after[:, 2:], before[:, 2:])
    before, after = (item.camera_to_ego[0] @ np.array([0, 0, 10, 1.0]) for item in (plain, shifted))
    np.testing.assert_allclose(to_ego_of_scene(after[None, :2])[0], before[:2], atol=1e-9)
    np.testing.assert_array_equal(shifted.images, plain.images)
    np.testing.assert_allclose(shifted.history, plain.history, atol=1e-6)


def test_intrinsics_follow_the_corner_of_the_image():
    camera = frame(0).cameras["CAM_F0"]
    scaled = scaled_intrinsic(camera.intrinsic, 0.5, 0.5)
    # the image's left edge is at pixel -0.5 before and after
    ray = (-0.5 - camera.intrinsic[0, 2]) / camera.intrinsic[0, 0]
    assert scaled[0, 0] * ray + scaled[0, 2] == pytest.approx(-0.5)
    assert scaled[0, 0] == camera.intrinsic[0, 0] / 2
    assert scaled[2].tolist() == [0, 0, 1]


def test_distortion_is_removed_where_opencv_says():
    """A dot painted at the distorted place of a ray is found at the pinhole place of that ray."""
    intrinsic = np.array([[300.0, 0, 199.5], [0, 300.0, 149.5], [0, 0, 1]])
    lens = np.array([-0.356123, 0.172545, -0.00213, 0.000464, -0.05231])
    camera = replace(frame(0).cameras["CAM_F0"], intrinsic=intrinsic, distortion=lens)
    ray = np.array([[0.45, 0.3, 1.0]])
    ((x, y),) = cv2.projectPoints(ray, np.zeros(3), np.zeros(3), intrinsic, lens)[0][:, 0]
    image = np.zeros((300, 400, 3), np.uint8)
    cv2.circle(image, (round(x), round(y)), 3, (255, 255, 255), -1)
    for scale in (1, 2):
        straight, small = pinhole_image(image, camera, 300 // scale, 400 // scale)
        rows, columns = np.nonzero(straight[..., 0] > 60)
        expected = small @ ray[0]
        assert np.hypot(columns.mean() - expected[0], rows.mean() - expected[1]) < 1.0
    assert np.hypot(x - (intrinsic @ ray[0])[0], y - (intrinsic @ ray[0])[1]) > 5  # the lens does matter


def test_untouched_without_distortion_and_resize():
    image, intrinsic = pinhole_image(gradient(), frame(0).cameras["CAM_F0"], 54, 96)
    np.testing.assert_array_equal(image, gradient())
    np.testing.assert_array_equal(intrinsic, frame(0).cameras["CAM_F0"].intrinsic)


@pytest.mark.parametrize(
    "fields", [{"cameras": ("CAM_F0", "CAM_F0")}, {"lidar_history": (3, 1)}, {"lidar_history": (4,)}]
)
def test_impossible_configurations(fields):
    with pytest.raises(ValueError, match=r"cameras|lidar_history"):
        SensorConfig(**fields)
