import logging
import os
from pathlib import Path

import numpy as np
import pytest
import shapely

from irl_vla.dataset.layout import Dataset
from irl_vla.dataset.maps import reader
from irl_vla.dataset.maps.cache import KEPT, cache_folder, entry_path, read_entry, write_entry
from irl_vla.dataset.maps.content import CITY_EPSG
from irl_vla.dataset.maps.reader import load_map, read_map
from irl_vla.dataset.maps.writer import map_path, write_index, write_map
from irl_vla.scene import CITIES

from .example import CITY, map_content

DRIVES = Path(__file__).parents[4] / "shared" / "real_drives"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """One city's map, with an empty cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_index(tmp_path / "maps")
    write_map(map_path(tmp_path / "maps", CITY), map_content(), CITY_EPSG[CITY])
    reader._cached.cache_clear()
    yield Dataset(tmp_path, tmp_path / "maps", tmp_path)
    reader._cached.cache_clear()


def forget():
    """As in a new process."""
    reader._cached.cache_clear()


def assert_same(found, expected):
    """Every field of every object, bit by bit, in the same order."""
    for group in ("lanes", "lane_connectors", "roadblocks", "roadblock_connectors"):
        assert list(getattr(found, group)) == list(getattr(expected, group))
        for item_id, item in getattr(expected, group).items():
            assert_same_record(getattr(found, group)[item_id], item)
    assert list(found.areas) == list(expected.areas)
    for layer, areas in expected.areas.items():
        assert list(found.areas[layer]) == list(areas)
        for item_id, item in areas.items():
            assert_same_record(found.areas[layer][item_id], item)
    assert found.name == expected.name


def assert_same_record(found, expected):
    for field in expected.__dataclass_fields__:
        one, other = getattr(found, field), getattr(expected, field)
        if isinstance(other, shapely.Polygon):
            assert one.wkb == other.wkb
        elif isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other
            assert type(one) is type(other)


def test_cached_map_is_the_parsed_one(data, monkeypatch):
    parsed = load_map(data, CITY)
    (entry,) = cache_folder().glob("*.arrow")
    forget()
    monkeypatch.setattr(reader, "read_map", lambda *_: pytest.fail("parsed again"))
    assert_same(load_map(data, CITY), parsed)
    assert entry == entry_path(cache_folder(), map_path(data.maps_root, CITY))


@pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/real_drives is not here")
@pytest.mark.parametrize("city", CITIES)
def test_cached_real_map_is_the_parsed_one(tmp_path, city):
    view = read_map(map_path(DRIVES / "maps", city), city)
    write_entry(tmp_path / "x.arrow", view)
    assert_same(read_entry(tmp_path / "x.arrow", city), view)


def test_broken_entries_are_made_anew(data, caplog):
    parsed = load_map(data, CITY)
    (entry,) = cache_folder().glob("*.arrow")
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (b"", whole[:10], whole[:-1], bytes(flipped), os.urandom(len(whole))):
        entry.write_bytes(broken)
        forget()
        with caplog.at_level(logging.WARNING):
            assert_same(load_map(data, CITY), parsed)
        assert "expected a whole entry" in caplog.text
        assert entry.read_bytes() == whole


def test_another_map_is_another_entry(data):
    load_map(data, CITY)
    content = map_content()
    write_map(map_path(data.maps_root, CITY), type(content)(**{**as_dict(content), "carparks": ()}), CITY_EPSG[CITY])
    assert load_map(data, CITY).areas["CARPARK_AREA"] == {}
    assert len(list(cache_folder().glob("*.arrow"))) == 2


def as_dict(content):
    return {field: getattr(content, field) for field in content.__dataclass_fields__}


def test_nothing_is_written_beside_the_data(data):
    before = sorted(data.maps_root.rglob("*"))
    load_map(data, CITY)
    assert sorted(data.maps_root.rglob("*")) == before


def test_without_a_place_maps_are_parsed(data, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_map(data, CITY).lanes) == 3
    assert "set XDG_CACHE_HOME" in caplog.text
    assert cache_folder({}) is None
    assert cache_folder({"HOME": "/home/a"}) == Path("/home/a/.cache/irl-vla/maps")
    assert cache_folder({"HOME": "/home/a", "XDG_CACHE_HOME": "/b"}) == Path("/b/irl-vla/maps")


def test_the_cache_does_not_grow_without_end(data):
    view = load_map(data, CITY)
    for index in range(KEPT + 3):
        path = cache_folder() / f"{index}-1.arrow"
        write_entry(path, view)
        os.utime(path, ns=(index, index))
    assert len(list(cache_folder().glob("*.arrow"))) == KEPT
