"""What is fuzzed: each target breaks a whole file and reads it the way the program does."""

import io
import json
import logging
import pickle
import shutil
import sqlite3
from dataclasses import fields, is_dataclass

import numpy as np
import yaml

from irl_vla.dataset.checks.dataset import check_log
from irl_vla.dataset.checks.maps import check_maps
from irl_vla.dataset.checks.second_scene import check_scene
from irl_vla.dataset.config import DataConfig, SceneFilter
from irl_vla.dataset.layout import Dataset, open_dataset
from irl_vla.dataset.log import read_log
from irl_vla.dataset.maps.reader import INDEX_NAME, city_path, load_map, read_map
from irl_vla.dataset.nuplan_records import write_records
from irl_vla.dataset.second_stage import read_second_stage
from irl_vla.dataset.sensors import decode_image, has_image, has_sweep, parse_sweep
from irl_vla.dataset.splits import (
    LAYOUTS_NAME,
    LogLayout,
    StagePair,
    read_layouts,
    read_split,
    write_layouts,
    write_split,
)
from irl_vla.errors import IrlVlaError
from irl_vla.scene import CITIES
from tests.unit.dataset.example import CITY, LOG, write_example
from tests.unit.dataset.second_stage_example import SPLIT, scene_dict

from .mutations import hostile, mutated_bytes, mutated_structure

logging.disable(logging.CRITICAL)


def example(folder):
    if not (folder / "navsim_logs").is_dir():
        write_example(folder, count=5)
    return open_dataset(DataConfig(root=folder), {})


def read_whole_log(dataset, path):
    """Reads as stages do, and checks; the check must find a name for everything that reading refuses."""
    facts = check_log(dataset, "mini", {"all": SceneFilter(num_future_frames=0, frame_interval=1)}, False, path.stem)
    log = read_log(path)
    for index in range(len(log)):
        log.token(index)
        log.map_name(index)
        log.has_route(index)
        frame = log.frame(index)
        for camera in frame.cameras.values():
            has_image(dataset, "mini", camera)
        if frame.lidar_path is not None:
            has_sweep(dataset, "mini", frame.lidar_path)
    assert not any(item.rule in {"log", "frame", "frame.ego", "frame.anns"} for item in facts.findings)


def log_bytes(folder):
    dataset = example(folder)
    data = (dataset.log_folder("mini") / f"{LOG}.pkl").read_bytes()
    path = dataset.log_folder("mini") / "mutated.pkl"

    def run(generator):
        path.write_bytes(mutated_bytes(data, generator))
        read_whole_log(dataset, path)

    return run


def log_values(folder):
    dataset = example(folder)
    frames = pickle.loads((dataset.log_folder("mini") / f"{LOG}.pkl").read_bytes())
    path = dataset.log_folder("mini") / "mutated.pkl"

    def run(generator):
        path.write_bytes(pickle.dumps(mutated_structure(frames, generator), protocol=int(generator.integers(2, 6))))
        read_whole_log(dataset, path)

    return run


def read_whole_scene(dataset, path):
    """Reads a second-stage scene, and checks it; what reading refuses must be an error of the check."""
    view = load_map(dataset, CITY)
    facts = check_scene(dataset, SPLIT, False, lambda _: view, path.stem)
    is_sound = all(item.severity != "error" for item in facts.findings)
    try:
        scene = read_second_stage(path, SPLIT)
        for frame in scene.frames:
            for camera in frame.cameras.values():
                has_image(dataset, SPLIT, camera)
            if frame.lidar_path is not None:
                has_sweep(dataset, SPLIT, frame.lidar_path)
    except IrlVlaError:
        assert not is_sound
        raise


def scene_bytes(folder):
    dataset = example(folder)
    path = dataset.second_stage_folder(SPLIT) / "mutated.pkl"
    write_records(path, scene_dict(sensors=True))
    data = path.read_bytes()

    def run(generator):
        path.write_bytes(mutated_bytes(data, generator))
        read_whole_scene(dataset, path)

    return run


def scene_values(folder):
    """Values where others belong, also in the nuPlan records, whose classes the restricted reader knows."""
    dataset = example(folder)
    path = dataset.second_stage_folder(SPLIT) / "mutated.pkl"
    values = scene_dict(sensors=True)

    def run(generator):
        broken = mutated_structure(values, generator)
        if isinstance(broken, dict) and generator.random() < 0.5:
            break_record(broken, generator)
        try:
            write_records(path, broken)
        except (ValueError, TypeError, AttributeError, RecursionError, pickle.PicklingError):
            return  # what cannot be written is in no file
        read_whole_scene(dataset, path)

    return run


def break_record(values, generator):
    """Puts a hostile value anywhere into one record of a scene, if there is one left."""
    records = [
        item
        for key in ("extended_detections_tracks", "extended_traffic_light_data")
        for item in (values.get(key) if isinstance(values.get(key), list) else ())
        if is_dataclass(item)
    ]
    if not records:
        return
    record = records[generator.integers(len(records))]
    while True:
        names = [item.name for item in fields(record)]
        name = names[generator.integers(len(names))]
        inner = getattr(record, name)
        while isinstance(inner, list) and inner:
            inner = inner[generator.integers(len(inner))]
        if not is_dataclass(inner) or generator.random() < 0.2:
            object.__setattr__(record, name, hostile(generator))
            return
        record = inner


def map_target(folder, change):
    dataset = example(folder)
    source = city_path(dataset.maps_root, CITY)
    root = folder / "mutated_maps"
    root.mkdir(exist_ok=True)
    shutil.copy(dataset.maps_root / INDEX_NAME, root)
    path = city_path(root, CITY)
    path.parent.mkdir(parents=True, exist_ok=True)

    def run(generator):
        change(source, path, generator)
        check_maps(root)
        read_map(path, CITY)

    return run


def map_bytes(folder):
    def change(source, path, generator):
        data = source.read_bytes()
        if generator.random() < 0.7:  # contents of pages, as far as possible from the header
            page = 4096 * int(generator.integers(1, len(data) // 4096))
            part = mutated_bytes(data[page : page + 4096], generator)
            path.write_bytes(data[:page] + part[:4096].ljust(4096, b"\0") + data[page + 4096 :])
        else:
            path.write_bytes(mutated_bytes(data, generator))

    return map_target(folder, change)


def map_values(folder):
    scalars = (None, -1, 0, 5, 2**40, 0.5, 1e308, "", "x", "5", "1,2", b"blob", "EPSG:4326", "EPSG:32612", b"GP\0\1")

    def change(source, path, generator):
        shutil.copy(source, path)
        with sqlite3.connect(path) as base:
            for (name,) in base.execute("select name from sqlite_master where type = 'trigger'").fetchall():
                base.execute(f'drop trigger "{name}"')
            names = "select name from sqlite_master where type = 'table' and name not like 'sqlite%'"
            tables = [name for (name,) in base.execute(names).fetchall()]
            for _ in range(generator.integers(1, 4)):
                table = tables[generator.integers(len(tables))]
                break_table(base, table, scalars[generator.integers(len(scalars))], generator)
        base.close()

    return map_target(folder, change)


def break_table(base, table, value, generator):
    """One statement; those that SQLite refuses, also because an earlier one broke the schema, change nothing."""
    try:
        columns = [row[1] for row in base.execute(f'pragma table_info("{table}")').fetchall()]
        column = columns[generator.integers(len(columns))] if columns else "fid"
        where = f" where rowid = (select min(rowid) from '{table}')" if generator.random() < 0.5 else ""
        statement = generator.choice(
            [f'update "{table}" set "{column}" = ?{where}'] * 6
            + [
                f'delete from "{table}"{where}',
                f'alter table "{table}" drop column "{column}"',
                f'drop table "{table}"',
            ]
        )
        base.execute(str(statement), (value,) if "?" in statement else ())
    except sqlite3.Error:
        return


def map_index(folder):
    dataset = example(folder)
    values = json.loads((dataset.maps_root / INDEX_NAME).read_text())
    root = folder / "mutated_index"
    root.mkdir(exist_ok=True)

    def run(generator):
        (root / INDEX_NAME).write_bytes(mutated_text(values, generator))
        for city in CITIES:
            city_path(root, city)

    return run


def pcd(folder):
    dataset = example(folder)
    path = next((dataset.sensor_folder("mini") / LOG / "MergedPointCloud").iterdir())
    data = path.read_bytes()
    words = (
        b"F 4",
        b"-1",
        b"99999999999",
        b"x",
        b"",
        b"4 4 4 4 4 4",
        b"0",
        b"binary_compressed",
        b"\xff",
        b"1e9",
        b"U",
    )

    def run(generator):
        broken = data
        if generator.random() < 0.6:
            lines = data.split(b"\n", 11)
            line = int(generator.integers(11))
            lines[line] = lines[line].split(b" ")[0] + b" " + words[generator.integers(len(words))]
            broken = b"\n".join(lines)
        if generator.random() < 0.7:
            broken = mutated_bytes(broken, generator)
        parse_sweep(broken, path)

    return run


def jpeg(folder):
    dataset = example(folder)
    data = next((dataset.sensor_folder("mini") / LOG / "CAM_F0").iterdir()).read_bytes()
    path = folder / "mutated.jpg"

    def run(generator):
        path.write_bytes(mutated_bytes(data, generator))
        image = decode_image(path)
        assert image.dtype == np.uint8
        assert image.shape[2] == 3

    return run


def split_yaml(folder):
    dataset = example(folder)
    root = folder / "mutated_splits"
    pairs = (StagePair("0" * 16, "1" * 16, (("2" * 17, "3" * 17),)),)
    write_split(root, "split", "mini", SceneFilter(tokens=("a", "b"), log_names=(LOG,)), pairs)
    path = root / "train_test_split" / "split.yaml"
    data = path.read_bytes()
    values = yaml.safe_load(data)
    mutated = Dataset(dataset.root, dataset.maps_root, path.parent)

    def run(generator):
        if generator.random() < 0.5:
            path.write_bytes(mutated_bytes(data, generator))
        else:
            path.write_bytes(yaml_text(mutated_structure(values, generator)))
        read_split(mutated, "split")

    return run


def layouts(folder):
    dataset = example(folder)
    root = folder / "mutated_layouts"
    write_layouts(root, {LOG: LogLayout("straight-1", "follow"), "other": LogLayout("bend-2", "curve")})
    values = json.loads((root / LAYOUTS_NAME).read_text())
    mutated = Dataset(root, dataset.maps_root, dataset.splits_root)

    def run(generator):
        (root / LAYOUTS_NAME).write_bytes(mutated_text(values, generator))
        for entry in read_layouts(mutated).values():
            assert isinstance(entry.layout, str)
            assert isinstance(entry.kind, str)

    return run


def mutated_text(values, generator):
    """JSON with broken bytes or with values where others belong."""
    if generator.random() < 0.5:
        return mutated_bytes(json.dumps(values, indent=1).encode(), generator)
    try:
        text = json.dumps(mutated_structure(values, generator), default=repr, skipkeys=True)
    except (ValueError, RecursionError):  # what JSON cannot say; nesting that no reader follows instead
        text = "[" * 100_000
    return text.encode(errors="surrogatepass")


def yaml_text(values):
    stream = io.StringIO()
    try:
        yaml.dump(values, stream)
    except (yaml.YAMLError, ValueError, RecursionError):
        return b"[" * 3000
    return stream.getvalue().encode(errors="surrogatepass")


TARGETS = {
    "log_bytes": log_bytes,
    "log_values": log_values,
    "scene_bytes": scene_bytes,
    "scene_values": scene_values,
    "map_bytes": map_bytes,
    "map_values": map_values,
    "map_index": map_index,
    "pcd": pcd,
    "jpeg": jpeg,
    "split_yaml": split_yaml,
    "layouts": layouts,
}
