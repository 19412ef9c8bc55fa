"""Camera images (JPEG) and LiDAR sweeps (binary PCD), read and written."""

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from irl_vla.dataset.layout import Dataset, below
from irl_vla.errors import LogFormatError
from irl_vla.ledger.files import write_bytes
from irl_vla.scene import Camera

#: Rows of a sweep, which are the fields every sweep file must have (``lidar_info`` numbers the LiDAR of the rig).
SWEEP_FIELDS: Final = ("x", "y", "z", "intensity", "ring", "lidar_info")
_HEADER_KEYS: Final = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_KINDS: Final = {"F": "f", "I": "i", "U": "u"}
_WRITTEN_DTYPE: Final = np.dtype([(name, "<f4" if name in "xyz" else "u1") for name in SWEEP_FIELDS])


def load_image(dataset: Dataset, data_split: str, camera: Camera) -> NDArray[np.uint8]:
    """Loads a camera's image as stored (distorted), (h, w, 3) uint8 RGB.

    Raises:
        LogFormatError: if the file is missing or is no image.
    """
    return decode_image(below(dataset.sensor_folder(data_split), camera.path, "data_path"))


def load_sweep(dataset: Dataset, data_split: str, lidar_path: str) -> NDArray[np.float32]:
    """Loads a merged LiDAR sweep, (6, n) float32 rows ``SWEEP_FIELDS`` in the ego frame of its own frame.

    Raises:
        LogFormatError: if the file is missing or is no binary point cloud with these fields.
    """
    path = below(dataset.sensor_folder(data_split), lidar_path, "lidar_path")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise LogFormatError(f"{path}: expected a LiDAR sweep, found no file; fetch the sensor data") from error
    return parse_sweep(data, path)


def has_image(dataset: Dataset, data_split: str, camera: Camera) -> bool:
    """True if the camera's image file exists."""
    return below(dataset.sensor_folder(data_split), camera.path, "data_path").is_file()


def has_sweep(dataset: Dataset, data_split: str, lidar_path: str) -> bool:
    """True if the sweep's file exists."""
    return below(dataset.sensor_folder(data_split), lidar_path, "lidar_path").is_file()


def decode_image(path: Path) -> NDArray[np.uint8]:
    """Decodes an image file, (h, w, 3) uint8 RGB.

    Raises:
        LogFormatError: if the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise LogFormatError(f"{path}: expected a camera image, found no file; fetch the sensor data") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise LogFormatError(
            f"{path}: expected a whole JPEG image, found another content ({error}); fetch it again"
        ) from error


def parse_sweep(data: bytes, path: Path) -> NDArray[np.float32]:
    """Parses a binary PCD file; bytes behind the last point are ignored, as the official reader does.

    Args:
        path: named in errors only.

    Raises:
        LogFormatError: naming the header key that does not fit.
    """
    header, body = _split_header(data, path)
    fields = header["FIELDS"]
    missing = [name for name in SWEEP_FIELDS if name not in fields]
    if missing:
        raise LogFormatError(f"{path}: FIELDS: expected {' '.join(SWEEP_FIELDS)}, found no {', '.join(missing)}")
    if header["DATA"] != ["binary"]:
        raise LogFormatError(f"{path}: DATA: expected binary, found {' '.join(header['DATA'])}")
    try:
        record = np.dtype(
            [
                (field, f"<{_KINDS[kind]}{int(size)}")
                for field, kind, size in zip(fields, header["TYPE"], header["SIZE"], strict=True)
            ]
        )
        points = int(header["POINTS"][0])
        counts = {int(count) for count in header["COUNT"]}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LogFormatError(
            f"{path}: expected one TYPE (F, I, U) and SIZE a field, whole numbers for COUNT and POINTS, found {header}"
        ) from error
    if counts != {1}:
        raise LogFormatError(f"{path}: COUNT: expected 1 for every field, found {sorted(counts)}")
    if points < 0 or len(body) < points * record.itemsize:
        raise LogFormatError(
            f"{path}: POINTS: expected {points} points of {record.itemsize} bytes, found {len(body)} bytes"
        )
    rows = np.frombuffer(body, dtype=record, count=points)
    sweep = np.stack([rows[name].astype(np.float32) for name in SWEEP_FIELDS])
    if not np.isfinite(sweep).all():
        raise LogFormatError(
            f"{path}: expected finite points, found {int((~np.isfinite(sweep)).any(axis=0).sum())} others"
        )
    return sweep


def write_image(path: Path, image: NDArray[np.uint8], quality: int = 90) -> None:
    """Writes (h, w, 3) uint8 RGB as JPEG, atomically; the same image always gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    write_bytes(path, buffer.getvalue())


def write_sweep(path: Path, sweep: NDArray[np.float32]) -> None:
    """Writes a (6, n) sweep as binary PCD, atomically: x, y, z as float32, the rest rounded into a byte (0 .. 255)."""
    points = np.empty(sweep.shape[1], dtype=_WRITTEN_DTYPE)
    for row, name in zip(sweep, SWEEP_FIELDS, strict=True):
        points[name] = row if name in "xyz" else np.clip(np.rint(row), 0, 255)
    kinds = [_WRITTEN_DTYPE[name] for name in SWEEP_FIELDS]
    header = (
        "# .PCD v.7 - Point Cloud Data file format\nVERSION .7\n"
        f"FIELDS {' '.join(SWEEP_FIELDS)}\n"
        f"SIZE {' '.join(str(kind.itemsize) for kind in kinds)}\n"
        f"TYPE {' '.join(kind.kind.upper() for kind in kinds)}\n"
        f"COUNT {' '.join('1' for _ in kinds)}\n"
        f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    )
    write_bytes(path, header.encode() + points.tobytes())


def _split_header(data: bytes, path: Path) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in header:
        end = data.find(b"\n", position, position + 4096)
        if end < 0:
            raise LogFormatError(f"{path}: expected a PCD header that ends with DATA, found none")
        words = data[position:end].decode("ascii", errors="replace").split()
        position = end + 1
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
    absent = [key for key in _HEADER_KEYS if key not in header]
    if absent:
        raise LogFormatError(
            f"{path}: expected the header lines {' '.join(_HEADER_KEYS)}, found no {', '.join(absent)}"
        )
    return header, data[position:]
