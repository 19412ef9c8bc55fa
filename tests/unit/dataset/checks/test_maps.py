"""Rules on map files, each broken alone in the example's map, which has no findings otherwise."""

import json
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pyogrio
import pytest
import shapely

from irl_vla.dataset.checks.maps import check_maps
from irl_vla.dataset.maps.content import CITY_EPSG
from irl_vla.dataset.maps.reader import INDEX_NAME, city_path
from irl_vla.dataset.maps.writer import write_map

from ..example import CITY, map_content


@pytest.fixture
def maps_root(dataset, tmp_path):
    return shutil.copytree(dataset.maps_root, tmp_path / "maps")


def findings(maps_root):
    """By rule and key, of the example's city; the other three have no files."""
    return {f"{finding.rule} {finding.key}": finding for finding in check_maps(maps_root) if CITY in finding.file}


def execute(maps_root, script):
    with sqlite3.connect(city_path(maps_root, CITY)) as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f'drop trigger "{name}"')
        connection.executescript(script)
        connection.execute("update gpkg_ogr_contents set feature_count = null")  # counted by the triggers


def copy_shape(layer, source, target):
    return f"update {layer} set geom = (select geom from {layer} where fid = {source}) where fid = {target}"


SWAP_SIDES = "set left_boundary_fid = right_boundary_fid, right_boundary_fid = left_boundary_fid"
SHAPES = "gen_lane_connectors_scaled_width_polygons"
BREACHES = {
    f"update lanes_polygons {SWAP_SIDES} where fid = 12": ("map.side lanes_polygons.left_boundary_fid", 1),
    f"update lanes_polygons {SWAP_SIDES} where fid = 11": ("map.side lanes_polygons.right_boundary_fid", 1),
    f"update {SHAPES} {SWAP_SIDES}": (f"map.side {SHAPES}.left_boundary_fid", 1),
    "update lanes_polygons set lane_index = 1 - lane_index where fid < 13": (
        "map.lane_order lanes_polygons.lane_index",
        1,
    ),
    "update lanes_polygons set lane_index = null where fid = 13": ("map.lane_index lanes_polygons.lane_index", 1),
    copy_shape("lanes_polygons", 13, 11): ("map.inside lanes_polygons", 1),
    copy_shape("lane_groups_polygons", 22, 21): ("map.inside lane_groups_polygons", 2),
    "update lane_group_connectors set geom = (select geom from carpark_areas)": (
        "map.inside lane_group_connectors",
        1,
    ),
    "insert into lane_groups_polygons select 99, geom, 1, 2 from lane_groups_polygons where fid = 21": (
        "map.group lane_groups_polygons",
        1,
    ),
    "alter table lanes_polygons drop column lane_index; alter table lanes_polygons add lane_index text default '0'": (
        "map.type lanes_polygons.lane_index",
        3,
    ),
    "update lane_connectors set traffic_light_stop_line_fids = null": (
        "map.type lane_connectors.traffic_light_stop_line_fids",
        1,
    ),
    "update stop_polygons set lane_fids = null": ("map.type stop_polygons.lane_fids", 1),
    "update lanes_polygons set speed_limit_mps = 60": ("map.type lanes_polygons.speed_limit_mps", 3),
    "update lane_connectors set speed_limit_mps = 0": ("map.type lane_connectors.speed_limit_mps", 1),
    "update boundaries set boundary_type_fid = 1 where fid = 1": ("map.reference boundaries.boundary_type_fid", 1),
    "update lanes_polygons set lane_type_fid = 2 where fid = 11": ("map.reference lanes_polygons.lane_type_fid", 1),
    "update baseline_paths set lane_fid = 11 where lane_connector_fid = 31": ("map.reference baseline_paths", 1),
    "insert into baseline_paths (geom) select geom from baseline_paths limit 1": ("map.reference baseline_paths", 1),
    "drop table dubins_nodes; delete from gpkg_contents where table_name = 'dubins_nodes';"
    "delete from gpkg_geometry_columns where table_name = 'dubins_nodes'": ("map.unread_layers dubins_nodes", 1),
}


def test_the_example_has_no_findings(maps_root):
    assert findings(maps_root) == {}


@pytest.mark.parametrize("script", BREACHES)
def test_each_breach_is_found_and_named(maps_root, script):
    rule, count = BREACHES[script]
    execute(maps_root, script)
    found = findings(maps_root)
    assert rule in found, found
    assert found[rule].count == count
    assert found[rule].message.startswith("expected ")
    assert ", found " in found[rule].message
    assert found[rule].file.endswith("map.gpkg")


def test_connectors_of_two_vertices(maps_root):
    content = map_content()
    (connector,) = content.connectors
    short = replace(connector, baseline=connector.baseline[[0, -1]])
    write_map(city_path(maps_root, CITY), replace(content, connectors=(short,)), CITY_EPSG[CITY])
    (found,) = findings(maps_root).values()
    assert (found.rule, found.severity) == ("map.vertices", "warning")
    assert found.message.endswith("found fewer at connector 31")


def test_a_table_of_settings_has_no_geometry(maps_root):
    path = city_path(maps_root, CITY)
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.to_wkb(shapely.Point(0, 0))], dtype=object),
        geometry_type="Point",
        crs="EPSG:4326",
        field_data=[np.array(["projectedCoordSystem"], object), np.array([f"EPSG:{CITY_EPSG[CITY]}"], object)],
        fields=["key", "value"],
        layer="meta",
        driver="GPKG",
        append=False,
    )
    assert set(findings(maps_root)) == {"map.meta meta"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda entry: entry.pop("layers"), f"map.index {CITY}.layers"),
        (lambda entry: entry.update(layers=[]), f"map.index {CITY}.layers"),
        (lambda entry: entry.update(version="9.15"), f"map.version {CITY}.version"),
    ],
)
def test_the_index(maps_root, change, rule):
    path = maps_root / INDEX_NAME
    index = json.loads(path.read_text())
    change(index[CITY])
    path.write_text(json.dumps(index))
    found = {f"{finding.rule} {finding.key}": finding for finding in check_maps(maps_root)}
    assert found[rule].file == INDEX_NAME
