import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_plans
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.reward import labels as labelling
from irl_vla.reward.config import LabelConfig, ProposalConfig
from irl_vla.reward.labels import LabelInputs, LabelSet, ShardLabeller, mean_labels, open_labels, write_labels
from irl_vla.reward.proposals import SOURCES

from .roads import write_world

CONFIG = LabelConfig(rows_per_shard=5, proposals=ProposalConfig(vocabulary_size=8, vocabulary=4, manoeuvre=4))
SCORER = ScorerConfig()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), rows=12)


@pytest.fixture
def in_process(monkeypatch):
    """Runs shards in this process: what Ray does is tested in tests/integration."""
    done = []

    def run(job, shards):
        labeller = ShardLabeller(job)
        for index, rows in shards:
            labeller({"shard": [index], "rows": [rows]})
            done.append(index)

    monkeypatch.setattr(labelling, "_run", run)
    return done


def write(world, folder, config=CONFIG, seed=3):
    return write_labels(LabelInputs(*world), folder, config, SCORER, seed)


def test_labels_are_what_the_scorer_says_about_the_stored_plans(world, in_process, tmp_path):
    labels = write(world, tmp_path)
    assert labels.plans.shape == (12, CONFIG.proposals.count, 8, 3)
    store = PreparedStore.open(world[1])
    for row in (0, 7):
        scored = score_plans(store[labels.tokens[row]], labels.plans[row].astype(float), SCORER)
        np.testing.assert_array_equal(labels.raw[row], scored.raw.astype(np.float32))
        np.testing.assert_array_equal(labels.subscores()[row], scored.filtered.astype(np.float32))
        np.testing.assert_array_equal(labels.human[row], scored.human.astype(np.float32))
        np.testing.assert_array_equal(labels.progress_m[row], scored.progress_m.astype(np.float32))


def test_known_hacks_get_known_labels(world, in_process, tmp_path):
    labels = write(world, tmp_path)
    off_road = labels.source == SOURCES.index("off_road")
    assert labels.raw[..., 1][off_road].mean() < 0.5, "leaving the road fails the drivable area"
    human = labels.source == SOURCES.index("human")
    assert labels.raw[..., 0][human].min() == 1.0, "the human collides with nothing"
    jittery = labels.source == SOURCES.index("jittery")
    assert labels.raw[..., 7][jittery].mean() < labels.raw[..., 7][human].mean(), "jitter is uncomfortable"


def test_finished_shards_are_kept_and_the_result_is_the_same(world, in_process, tmp_path):
    whole = write(world, tmp_path / "whole")
    assert in_process == [0, 1, 2]
    write(world, tmp_path / "again")
    (tmp_path / "again" / "manifest.json").unlink()
    (tmp_path / "again" / "shard-000001.parquet").unlink()
    (tmp_path / "again" / ".shard-000001.parquet.x.parquet").write_bytes(b"half")
    first = (tmp_path / "again" / "shard-000000.parquet").stat()
    in_process.clear()
    resumed = write(world, tmp_path / "again")
    assert in_process == [1]
    assert (tmp_path / "again" / "shard-000000.parquet").stat().st_ino == first.st_ino
    assert not list((tmp_path / "again").glob(".shard-*"))
    np.testing.assert_array_equal(whole.raw, resumed.raw)
    np.testing.assert_array_equal(whole.plans, resumed.plans)


def test_how_the_work_is_cut_does_not_change_labels(world, in_process, tmp_path):
    fine = write(world, tmp_path / "fine", CONFIG.with_overrides({"rows_per_shard": 2}))
    coarse = write(world, tmp_path / "coarse")
    np.testing.assert_array_equal(fine.raw, coarse.raw)


def test_a_folder_of_another_job_is_refused(world, in_process, tmp_path):
    write(world, tmp_path)
    with pytest.raises(CheckpointError, match="other inputs, configuration or seed"):
        write(world, tmp_path, seed=4)


def test_reactive_traffic_is_refused_for_labels(world, tmp_path):
    with pytest.raises(ConfigError, match=r"scorer\.traffic: expected 'replay'"):
        write_labels(LabelInputs(*world), tmp_path, CONFIG, ScorerConfig(traffic="reactive"), 0)


def test_unfinished_labels_are_refused(world, in_process, tmp_path):
    write(world, tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="finished label_set"):
        open_labels(tmp_path)


def test_labels_of_an_older_schema_are_refused_with_the_way_to_rebuild_them(world, in_process, tmp_path):
    write(world, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 1}))
    with pytest.raises(CheckpointError, match=r"schema 2 of label_set, found 1; run `irl-vla label` again.*rm -r"):
        open_labels(tmp_path)


def test_a_shard_of_another_run_is_refused(world, in_process, tmp_path):
    write(world, tmp_path)
    path = tmp_path / "shard-000001.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"irl_vla.judge.fingerprint": b"other"}), path)
    with pytest.raises(CheckpointError, match="found 'other'"):
        open_labels(tmp_path)


def test_a_lost_shard_is_noticed(world, in_process, tmp_path):
    write(world, tmp_path)
    (tmp_path / "shard-000002.parquet").unlink()
    with pytest.raises(CheckpointError, match="expected 12 labelled rows, found 10"):
        open_labels(tmp_path)


def test_rows_without_a_prepared_scene_are_counted(world, in_process, tmp_path, monkeypatch):
    opened = PreparedStore.open
    monkeypatch.setattr(
        PreparedStore,
        "open",
        classmethod(lambda cls, folder: replace(s := opened(folder), places=dict(list(s.places.items())[:7]))),
    )
    labels = write(world, tmp_path)
    assert len(labels.rows) == 7
    assert json.loads((tmp_path / "manifest.json").read_text())["extra"]["rows_without_scene"] == 5


def test_bank_and_store_without_common_tokens_are_refused(world, in_process, tmp_path):
    bank, _ = world
    _, other = write_world(tmp_path / "other", rows=2)
    store = PreparedStore.open(other)
    renamed = replace(store[store.tokens[0]], token="elsewhere")
    (other / "scenes.arrow").unlink()
    write_shard(other / "scenes.arrow", [renamed])
    with pytest.raises(CheckpointError, match="none in common"):
        write((bank, other), tmp_path / "labels")


def test_the_human_filter_forgives_only_exact_zeros():
    raw = np.zeros((1, 2, 9), np.float32)
    human = np.array([[0.0, 1.0, 0.5, np.nan, 1.0, 0.0, 1.0, 1.0, np.nan]], np.float32)
    zeros = np.zeros((1, 2), np.float32)
    labels = LabelSet(
        tokens=("a",),
        rows=np.zeros(1, np.int64),
        plans=np.zeros((1, 2, 8, 3), np.float32),
        source=np.zeros((1, 2), np.int8),
        raw=raw,
        progress_m=zeros,
        reference_m=zeros[:, 0],
        human=human,
        vocabulary=np.zeros((1, 8, 3)),
        human_filter=True,
        fingerprint="x",
    )
    np.testing.assert_array_equal(labels.subscores()[0, 0], [1, 0, 0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(replace(labels, human_filter=False).subscores(), raw)


def test_labels_follow_the_configured_score(world, in_process, tmp_path):
    assert write(world, tmp_path / "corrected").human_filter
    for index, change in enumerate(({"human_filter": False}, {"filter_convention": "before"})):
        scorer = SCORER.with_overrides(change)
        assert not write_labels(LabelInputs(*world), tmp_path / str(index), CONFIG, scorer, 3).human_filter


def test_means_are_told_by_source(world, in_process, tmp_path):
    labels = write(world, tmp_path)
    means = mean_labels(labels)
    off_road = labels.source == SOURCES.index("off_road")
    gates = labels.subscores()[off_road][:, :4].prod(1)
    assert means["label/failed_off_road"] == pytest.approx((gates == 0.0).mean())
    assert means["label/epdms_off_road"] < means["label/epdms_human"]
    assert "label/epdms_policy" not in means, "there was no policy"
