"""Rules on the contents of sensor files, each broken in one file of a generated log."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from irl_vla.dataset.checks.dataset import check_log
from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.sensors import write_sweep

from ..example import LOG, gradient, sweep


@pytest.fixture
def root(dataset, tmp_path):
    return shutil.copytree(dataset.root, tmp_path / "data")


def findings(root):
    return check_log(open_dataset(DataConfig(root=root), {}), "mini", {}, True, LOG).findings


def first(root, folder):
    return min((root / "sensor_blobs/mini" / LOG / folder).iterdir())


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


IMAGES = {
    "another format": (lambda image: encoded(image, "PNG"), "warning", "expected JPEG, found PNG"),
    "grey": (lambda image: encoded(image.convert("L"), "JPEG"), "error", "expected RGB"),
    "four colours": (lambda image: encoded(image.convert("CMYK"), "JPEG"), "error", "found CMYK"),
    "twice the size": (
        lambda image: encoded(image.resize((192, 108)), "JPEG"),
        "warning",
        "expected a size of about 95 x 53, as the calibration has it, found 192 x 108",
    ),
    "half the height": (lambda image: encoded(image.resize((96, 27)), "JPEG"), "warning", "found 96 x 27"),
}


def test_the_example_has_no_findings(root):
    assert findings(root) == ()


@pytest.mark.parametrize("name", IMAGES)
def test_images(root, name):
    make, severity, text = IMAGES[name]
    path = first(root, "CAM_F0")
    path.write_bytes(make(Image.fromarray(gradient())))
    (found,) = findings(root)
    assert (found.severity, found.rule, found.key, found.count) == (severity, "sensor.content", "CAM_F0", 1)
    assert found.message.startswith(f"{path.name}: expected ")
    assert text in found.message


SWEEPS = {
    "version": (b"VERSION .7", b"VERSION .5", "warning", "VERSION: expected .7, found .5"),
    "viewpoint of floats": (b"VIEWPOINT 0 0 0 1", b"VIEWPOINT 0. 0 0 1", "error", "VIEWPOINT: expected 7 whole"),
    "short viewpoint": (b"VIEWPOINT 0 0 0 1 0 0 0", b"VIEWPOINT 0 0 0 1", "error", "VIEWPOINT: expected 7 whole"),
    "width": (b"WIDTH 3", b"WIDTH 2", "error", "to be 3 POINTS, found 2 x 1"),
    "height": (b"HEIGHT 1", b"HEIGHT x", "error", "found 3 x x"),
    "types": (b"TYPE F F F", b"TYPE F F U", "warning", "found x F4, y F4, z U4"),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_headers_of_sweeps(root, name):
    right, wrong, severity, text = SWEEPS[name]
    path = first(root, "MergedPointCloud")
    data = path.read_bytes()
    assert right in data
    path.write_bytes(data.replace(right, wrong))
    found = next(item for item in findings(root) if text in item.message)
    assert (found.severity, found.rule, found.key) == (severity, "sensor.content", "LiDAR")
    assert found.message.startswith(path.name)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (sweep()[:, :0], "expected some, found none"),
        (sweep() + np.float32([[4e6], [0], [0], [0], [0], [0]]), "ego frame"),
    ],
)
def test_points_of_sweeps(root, points, text):
    path = first(root, "MergedPointCloud")
    write_sweep(path, points)
    (found,) = findings(root)
    assert text in found.message
    assert found.severity == "warning"
