"""Rules for the contents of sensor files that decode: image against calibration, header of a sweep.

Sizes need not be the official 1920 x 1080, since readers take any; the calibration has to be of the same size. Of the
fields of a sweep beside x, y, z any width will do.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from irl_vla.dataset.checks.findings import Severity
from irl_vla.scene import Camera

#: Distance of the principal point from the image's middle, of its width or height: that of the official lenses is 2 %.
_OFF_MIDDLE: Final = 0.1
#: Points lie nearer than this to the ego; global coordinates do not.
_FURTHEST_M: Final = 500.0
_HEADER_LINES: Final = 64
_VIEWPOINT: Final = 7

#: Severity, and "expected ..., found ...".
Fault = tuple[Severity, str]


def image_faults(path: Path, camera: Camera) -> Iterator[Fault]:
    """What is wrong with an image file that decodes."""
    with Image.open(path) as image:
        kind, mode, (width, height) = image.format, image.mode, image.size
    if kind != "JPEG":
        yield "warning", f"expected JPEG, found {kind}"
    if mode != "RGB":
        yield "error", f"expected RGB (the official loader converts nothing), found {mode}"
    cx, cy = camera.intrinsic[0, 2], camera.intrinsic[1, 2]
    if abs(cx / width - 0.5) > _OFF_MIDDLE or abs(cy / height - 0.5) > _OFF_MIDDLE:
        text = (
            f"expected a size of about {2 * cx:.0f} x {2 * cy:.0f}, as the calibration has it, found {width} x {height}"
        )
        yield "warning", text


def sweep_faults(data: bytes, sweep: NDArray[np.float32]) -> Iterator[Fault]:
    """What is wrong with a sweep file that is parsed.

    Args:
        data: the file.
        sweep: (6, n) what was parsed of it.
    """
    header = _header(data)
    if header["VERSION"] not in (["0.7"], [".7"]):
        yield "warning", f"VERSION: expected .7, found {' '.join(header['VERSION'])}"
    viewpoint = header["VIEWPOINT"]
    if len(viewpoint) != _VIEWPOINT or not all(_is_whole(word) for word in viewpoint):
        text = f"expected {_VIEWPOINT} whole numbers (the official loader stops here), found {' '.join(viewpoint)}"
        yield "error", f"VIEWPOINT: {text}"
    size = [*header["WIDTH"], *header["HEIGHT"]]
    points = sweep.shape[1]
    if len(size) != 2 or not all(_is_whole(word) for word in size) or int(size[0]) * int(size[1]) != points:
        yield "error", f"WIDTH: expected WIDTH x HEIGHT to be {points} POINTS, found {' x '.join(size)}"
    kinds = {
        name: f"{kind}{width}"
        for name, kind, width in zip(header["FIELDS"], header["TYPE"], header["SIZE"], strict=True)
    }
    if any(kinds[name] != "F4" for name in "xyz"):
        text = ", ".join(f"{name} {kinds[name]}" for name in "xyz")
        yield "warning", f"TYPE: expected x, y, z as F of SIZE 4, found {text}"
    if not points:
        yield "warning", "POINTS: expected some, found none"
    elif np.abs(sweep[:3]).max() > _FURTHEST_M:
        text = f"expected points in the ego frame, within {_FURTHEST_M:.0f} m, found {np.abs(sweep[:3]).max():.0f} m"
        yield "warning", text


def _header(data: bytes) -> dict[str, list[str]]:
    """Key to words of the header's lines, which were parsed before."""
    header: dict[str, list[str]] = {}
    for line in data.split(b"\n", _HEADER_LINES):
        words = line.decode("ascii", errors="replace").split()
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
        if "DATA" in header:
            break
    return header


def _is_whole(word: str) -> bool:
    try:
        int(word)
    except ValueError:
        return False
    return True
