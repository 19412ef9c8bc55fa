import json
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import shapely

from irl_vla.dataset.config import DataConfig
from irl_vla.dataset.layout import open_dataset
from irl_vla.dataset.maps.content import CITY_EPSG, CITY_VERSION
from irl_vla.dataset.maps.reader import load_map, read_map
from irl_vla.dataset.maps.writer import map_path, write_index, write_map
from irl_vla.errors import MapError

from .example import CITY, ORIGIN, line, map_content, strip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "map.gpkg"
    write_map(path, map_content(), CITY_EPSG[CITY])
    return path


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copy(written, tmp_path / "map.gpkg")


def altered(path, statement):
    """Applies SQL to a map file as a foreign tool would (spatial triggers need functions that sqlite has not)."""
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f'drop trigger "{name}"')
        connection.execute(statement)
    return path


def test_round_trip(written):
    view = read_map(written, CITY)
    assert list(view.lanes) == ["11", "12", "13"]
    left, right, behind = view.lanes.values()
    connector = view.lane_connectors["31"]
    np.testing.assert_allclose(right.baseline, line(0, 100, -2), atol=1e-6)
    np.testing.assert_allclose(right.left_boundary, line(0, 100, 0), atol=1e-6)
    np.testing.assert_allclose(right.right_boundary, line(0, 100, -4), atol=1e-6)
    np.testing.assert_allclose(connector.left_boundary, line(100, 120, 0), atol=1e-6)
    assert left.polygon.symmetric_difference(strip(0, 100, 0, 4)).area < 1e-3
    assert (left.speed_limit_mps, right.speed_limit_mps, connector.speed_limit_mps) == (15.0, None, 12.5)
    assert (left.roadblock_id, connector.roadblock_id, behind.roadblock_id) == ("21", "41", "22")
    # exit_lane_fid is where a connector comes from, entry_lane_fid where it goes to
    assert (left.outgoing, right.outgoing, right.incoming) == ((), ("31",), ())
    assert (connector.incoming, connector.outgoing, behind.incoming) == (("12",), ("13",), ("31",))
    assert (connector.is_connector, right.is_connector) == (True, False)
    assert view.roadblocks["21"].lane_ids == ("11", "12")
    assert (view.roadblocks["21"].outgoing, view.roadblocks["22"].incoming) == (("41",), ("41",))
    block = view.roadblock_connectors["41"]
    assert (block.lane_ids, block.incoming, block.outgoing) == (("31",), ("21",), ("22",))
    assert {name: [(item.id, item.kind) for item in areas.values()] for name, areas in view.areas.items()} == {
        "INTERSECTION": [("51", 1)],
        "CARPARK_AREA": [("81", -1)],
        "STOP_LINE": [("61", 2)],
        "CROSSWALK": [("71", -1)],
        "WALKWAY": [],
        "GENERIC_DRIVABLE": [],
    }


def test_query_is_a_square_and_touch_counts(written):
    view = read_map(written, CITY)
    x, y = ORIGIN
    assert view.query("LANE", x + 50, y + 5, 0.9) == []
    assert view.query("LANE", x + 50, y + 5, 1.1) == ["11"]
    assert view.query("LANE", x + 110, y, 10.5) == ["11", "12", "13"]  # corners of the square, file order


def test_rows_keep_the_order_of_their_ids(tmp_path):
    content = map_content()
    write_map(tmp_path / "map.gpkg", replace(content, lanes=content.lanes[::-1]), CITY_EPSG[CITY])
    assert list(read_map(tmp_path / "map.gpkg", CITY).lanes) == ["11", "12", "13"]


def test_same_map_gives_the_same_bytes(tmp_path, written):
    write_map(tmp_path / "map.gpkg", map_content(), CITY_EPSG[CITY])
    assert (tmp_path / "map.gpkg").read_bytes() == written.read_bytes()


def test_all_layers_are_there_with_the_official_columns(written):
    with sqlite3.connect(written) as connection:
        tables = {name for (name,) in connection.execute("select table_name from gpkg_contents")}
        columns = {row[1] for row in connection.execute("pragma table_info(lane_connectors)")}
        stop = connection.execute("select fid, stop_polygon_type_fid, lane_fids from stop_polygons").fetchall()
        paths = connection.execute("select lane_fid, lane_connector_fid from baseline_paths").fetchall()
        crs = connection.execute("select distinct srs_id from gpkg_contents where data_type = 'features'").fetchall()
    assert tables >= {"road_segments", "traffic_lights", "dubins_nodes", "meta", "walkways", "generic_drivable_areas"}
    assert len(tables) == 17
    assert columns >= {"fid", "exit_lane_fid", "entry_lane_fid", "intersection_fid", "traffic_light_stop_line_fids"}
    assert stop == [(61, 2, "12")]
    assert paths == [(11.0, None), (12.0, None), (13.0, None), (None, 31.0)]
    assert crs == [(4326,)]


@pytest.mark.filterwarnings("ignore:A geometry of type MULTIPOLYGON:RuntimeWarning")
def test_one_part_multipolygon_is_a_polygon_and_two_parts_are_refused(copied, tmp_path):
    content = map_content()
    several = shapely.MultiPolygon([strip(0, 1, 20, 21), strip(5, 6, 20, 21)])
    park = content.carparks[0]
    single = replace(park, polygon=shapely.MultiPolygon([park.polygon]))
    write_map(tmp_path / "a.gpkg", replace(content, carparks=(single,)), CITY_EPSG[CITY])
    assert read_map(tmp_path / "a.gpkg", CITY).areas["CARPARK_AREA"]["81"].polygon.area == pytest.approx(200, rel=1e-3)
    write_map(tmp_path / "b.gpkg", replace(content, carparks=(replace(park, polygon=several),)), CITY_EPSG[CITY])
    with pytest.raises(MapError, match="layer carpark_areas, id 81: expected a polygon, found MULTIPOLYGON"):
        read_map(tmp_path / "b.gpkg", CITY)


@pytest.mark.parametrize(
    "layer",
    ["lanes_polygons", "baseline_paths", "stop_polygons", "walkways", "boundaries", "meta", "lane_groups_polygons"],
)
def test_missing_layer(copied, layer):
    altered(copied, f"delete from gpkg_contents where table_name = '{layer}'")
    altered(copied, f"drop table {layer}")
    with pytest.raises(MapError, match=rf"map\.gpkg: layer {layer}: missing"):
        read_map(copied, CITY)


@pytest.mark.parametrize(
    ("layer", "column"),
    [("lanes_polygons", "lane_group_fid"), ("lane_connectors", "entry_lane_fid"), ("baseline_paths", "lane_fid")],
)
def test_missing_column(copied, layer, column):
    altered(copied, f"alter table {layer} drop column {column}")
    with pytest.raises(MapError, match=rf"layer {layer}: column {column}: missing"):
        read_map(copied, CITY)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("delete from baseline_paths where lane_fid = 12", "layer lanes_polygons, id 12: expected one row of baseline"),
        ("update baseline_paths set lane_fid = 11 where lane_fid = 12", "second one of 11"),
        ("delete from boundaries where fid = 4", "left_boundary_fid: expected the id of a row of boundaries, found 4"),
        (
            "delete from gen_lane_connectors_scaled_width_polygons",
            "layer lane_connectors, id 31: expected one row of gen_",
        ),
        ("update lanes_polygons set lane_group_fid = null where fid = 12", "id 12: lane_group_fid: expected an id"),
        ("update lane_connectors set fid = 12", "id 12: expected ids apart from those of lanes_polygons"),
        ("update meta set value = 'nowhere'", "projectedCoordSystem: expected a projection .*'nowhere'"),
        ("delete from meta", "projectedCoordSystem: expected a projection .*None"),
        ("update carpark_areas set geom = null", "layer carpark_areas, id 81: expected a polygon, found nothing"),
    ],
)
def test_contents_that_do_not_fit_together(copied, statement, message):
    with pytest.raises(MapError, match=message):
        read_map(altered(copied, statement), CITY)


def test_connector_to_nowhere_is_dropped_with_a_warning(copied, caplog):
    view = read_map(altered(copied, "update lane_connectors set entry_lane_fid = 99"), CITY)
    assert view.lane_connectors["31"].outgoing == ()
    assert "1 values of entry_lane_fid name no object, first 99" in caplog.text


def test_not_a_map(tmp_path):
    with pytest.raises(MapError, match="found no file"):
        read_map(tmp_path / "map.gpkg", CITY)
    (tmp_path / "map.gpkg").write_text("no map")
    with pytest.raises(MapError, match="expected a GeoPackage"):
        read_map(tmp_path / "map.gpkg", CITY)


def test_load_map_is_cached_until_the_file_changes(dataset, tmp_path):
    assert load_map(dataset, CITY) is load_map(dataset, CITY)
    shutil.copytree(dataset.maps_root, tmp_path / "maps")
    copy = open_dataset(DataConfig(root=dataset.root, maps_root=tmp_path / "maps"), {})
    first = load_map(copy, CITY)
    write_map(map_path(copy.maps_root, CITY), replace(map_content(), carparks=()), CITY_EPSG[CITY])
    assert load_map(copy, CITY) is not first
    assert not load_map(copy, CITY).areas["CARPARK_AREA"]


def test_index(dataset, tmp_path):
    assert json.loads((dataset.maps_root / "nuplan-maps-v1.0.json").read_text()).keys() == CITY_VERSION.keys()
    with pytest.raises(MapError, match="found no file"):
        load_map(dataset, "sg-one-north")
    with pytest.raises(MapError, match="expected a version of 'berlin'"):
        load_map(dataset, "berlin")
    copy = open_dataset(DataConfig(root=dataset.root, maps_root=tmp_path), {})
    with pytest.raises(MapError, match="expected the index of the maps"):
        load_map(copy, CITY)
    write_index(tmp_path)
    path = tmp_path / "nuplan-maps-v1.0.json"
    path.write_text(path.read_text().replace("9.15.1915", "../../secret"))
    with pytest.raises(MapError, match=f"{CITY}: expected a folder's name, found '../../secret'"):
        load_map(copy, CITY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: {"lanes": (*c.lanes, replace(c.lanes[0], id=31))},
            "lanes and lane connectors: expected distinct ids",
        ),
        (lambda c: {"connectors": (replace(c.connectors[0], to_lane_id=99),)}, "lane connectors: lane: .*99"),
        (lambda c: {"groups": c.groups[:1]}, "found 22"),
        (lambda c: {"boundaries": c.boundaries[1:]}, "boundary: expected the id of a row, found 1"),
        (lambda c: {"intersections": ()}, "intersection: expected the id of a row, found 51"),
    ],
)
def test_writer_refuses_broken_content(tmp_path, change, message):
    content = map_content()
    with pytest.raises(MapError, match=message):
        write_map(tmp_path / "map.gpkg", replace(content, **change(content)), CITY_EPSG[CITY])
    assert list(tmp_path.iterdir()) == []
