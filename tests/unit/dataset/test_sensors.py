import numpy as np
import pytest

from irl_vla.dataset.sensors import has_image, has_sweep, load_image, load_sweep, parse_sweep, write_image, write_sweep
from irl_vla.errors import LogFormatError

from .example import frame, gradient, sweep

HEADER = (
    b"VERSION .7\nFIELDS x y z intensity ring lidar_info\nSIZE 4 4 4 1 1 1\nTYPE F F F U U U\nCOUNT 1 1 1 1 1 1\n"
    b"WIDTH 2\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA binary\n"
)
POINTS = np.array([[1, 2, 3], [4, 5, 6]], "<f4")
BODY = b"".join(row.tobytes() + bytes([7, 8, 9]) for row in POINTS)


def test_image_round_trip(dataset):
    camera = frame(3).cameras["CAM_F0"]
    image = load_image(dataset, "mini", camera)
    assert image.shape == (54, 96, 3)
    assert np.abs(image.astype(int) - gradient()).mean() < 4  # JPEG is lossy; a swap of channels would cost 60


def test_same_image_gives_the_same_bytes(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name, gradient())
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_sweep_round_trip(dataset):
    np.testing.assert_array_equal(load_sweep(dataset, "mini", frame(0).lidar_path), sweep())


def test_written_bytes_are_clipped(tmp_path):
    values = np.array([[0.25], [0], [0], [300], [-5], [1.6]], np.float32)
    write_sweep(tmp_path / "a.pcd", values)
    found = parse_sweep((tmp_path / "a.pcd").read_bytes(), tmp_path)
    assert found[:, 0].tolist() == [0.25, 0, 0, 255, 0, 2]


def test_parses_by_hand(tmp_path):
    found = parse_sweep(b"# comment\n" + HEADER + BODY + b"trailing bytes are allowed", tmp_path)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 4], [2, 5], [3, 6], [7, 7], [8, 8], [9, 9]]


def test_other_widths_orders_and_extra_fields(tmp_path):
    header = HEADER.replace(b"x y z intensity ring lidar_info", b"time lidar_info ring intensity z y x")
    header = header.replace(b"4 4 4 1 1 1", b"8 2 1 4 8 8 4").replace(b"F F F U U U", b"F I U F F F F")
    header = header.replace(b"COUNT 1 1 1 1 1 1", b"COUNT 1 1 1 1 1 1 1").replace(b"POINTS 2", b"POINTS 1")
    kinds = [("t", "<f8"), ("l", "<i2"), ("r", "u1"), ("i", "<f4"), ("z", "<f8"), ("y", "<f8"), ("x", "<f4")]
    body = np.array([(0.5, 1, 2, 3.5, 4, 5, 6)], dtype=kinds).tobytes()
    assert parse_sweep(header + body, tmp_path)[:, 0].tolist() == [6, 5, 4, 3.5, 2, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"DATA binary", b"DATA ascii", "DATA: expected binary, found ascii"),
        (b"VIEWPOINT 0 0 0 1 0 0 0\n", b"", "found no VIEWPOINT"),
        (b" lidar_info", b" other", "FIELDS: .*found no lidar_info"),
        (b"POINTS 2", b"POINTS 3", "POINTS: expected 3 points of 15 bytes, found 30"),
        (b"POINTS 2", b"POINTS -1", "POINTS: expected -1"),
        (b"POINTS 2", b"POINTS many", "whole numbers"),
        (b"TYPE F F F", b"TYPE Q F F", "one TYPE"),
        (b"SIZE 4 4", b"SIZE 4", "one TYPE"),
        (b"SIZE 4 4", b"SIZE 4 3", "one TYPE"),
        (b"COUNT 1 1", b"COUNT 1 2", r"COUNT: expected 1 for every field, found \[1, 2\]"),
        (b"DATA binary\n", b"", "header that ends with DATA"),
    ],
)
def test_broken_sweep(tmp_path, old, new, message):
    with pytest.raises(LogFormatError, match=message):
        parse_sweep(HEADER.replace(old, new) + BODY, tmp_path / "x.pcd")


def test_points_that_are_not_finite(tmp_path):
    body = np.array([np.nan], "<f4").tobytes() + BODY[4:]
    with pytest.raises(LogFormatError, match="expected finite points, found 1 others"):
        parse_sweep(HEADER + body, tmp_path / "x.pcd")


def test_missing_and_broken_files_are_named(dataset, tmp_path):
    camera = frame(0, log="elsewhere").cameras["CAM_F0"]
    assert not has_image(dataset, "mini", camera)
    assert not has_sweep(dataset, "mini", "none.pcd")
    with pytest.raises(LogFormatError, match=rf"{camera.path}: expected a camera image, found no file"):
        load_image(dataset, "mini", camera)
    with pytest.raises(LogFormatError, match=r"none\.pcd: expected a LiDAR sweep, found no file"):
        load_sweep(dataset, "mini", "none.pcd")
    broken = dataset.sensor_folder("mini") / camera.path
    for content in (b"no image", (dataset.sensor_folder("mini") / frame(0).cameras["CAM_F0"].path).read_bytes()[:400]):
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_bytes(content)
        with pytest.raises(LogFormatError, match="expected a whole JPEG image"):
            load_image(dataset, "mini", camera)
    broken.unlink()


@pytest.mark.parametrize("path", ["../../secret.pcd", "/etc/passwd", "a/../../../b", "", "a\\b", "a\0b"])
def test_nothing_outside_of_the_sensor_folder_is_opened(dataset, path):
    with pytest.raises(LogFormatError, match="expected a path below this folder"):
        load_sweep(dataset, "mini", path)
