from irl_vla.ledger.shards import clear_unfinished, missing_shards, shard_path


def test_what_a_killed_writer_left_is_removed_and_no_more(place):
    (place / ".a.parquet.x1y2.parquet").write_text("half")
    (place / "a.parquet").write_text("whole")
    (place / "artefact.json").write_text("{}")
    clear_unfinished(place)
    assert place.children() == ["a.parquet", "artefact.json"]


def test_missing_shards_are_named_in_order(place):
    shard_path(place, "b", ".parquet").write_text("whole")
    (place / ".c.parquet.x1y2.parquet").write_text("half")
    assert missing_shards(place, ["d", "c", "b", "a"], ".parquet") == ["d", "c", "a"]


def test_what_a_process_left_that_waits_for_its_turn_stays(place):
    (place / ".owner.json.x1y2").write_text("{}")
    (place / ".a.parquet.x1y2.parquet").write_text("half")
    clear_unfinished(place)
    assert place.children() == [".owner.json.x1y2"]
