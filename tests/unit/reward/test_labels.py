import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.scorer import score_plans
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.ledger import artefact
from irl_vla.ledger.artefact import find_record
from irl_vla.ledger.code import CodeVersion
from irl_vla.ledger.storage import RECORD_NAME, Location
from irl_vla.reward import labels as labelling
from irl_vla.reward.config import LabelConfig, ProposalConfig
from irl_vla.reward.labels import LabelInputs, LabelSet, mean_labels, open_labels, write_labels
from irl_vla.reward.plan_codes import rounded
from irl_vla.reward.proposals import SOURCES
from irl_vla.scene import SUBSCORES

from ..ledger.here import without_ray
from .roads import write_world

CONFIG = LabelConfig(proposals=ProposalConfig(vocabulary_size=8, vocabulary=4, manoeuvre=4))
SCORER = ScorerConfig()
NOT_EP = [index for index, name in enumerate(SUBSCORES) if name != "ep"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), rows=12)


@pytest.fixture
def in_process(monkeypatch):
    """Runs shards in this process; names those that were made."""
    return without_ray(monkeypatch, labelling)


def write(world, folder, config=CONFIG, seed=3):
    return write_labels(LabelInputs(*world), folder, config, SCORER, seed)


def test_labels_are_what_the_scorer_says_about_the_stored_plans(world, in_process, tmp_path):
    labels = write(world, tmp_path)
    assert labels.plans.shape == (12, CONFIG.proposals.count, 8, 3)
    store = PreparedStore.open(world[1])
    for row in (0, 7):
        scored = score_plans(store[labels.tokens[row]], labels.plans[row].astype(float), SCORER)
        np.testing.assert_array_equal(labels.raw[row][:, NOT_EP], scored.raw[:, NOT_EP])
        np.testing.assert_allclose(labels.raw[row], scored.raw, rtol=0, atol=1e-5)
        np.testing.assert_allclose(labels.subscores()[row], scored.filtered, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(labels.human[row], scored.human.astype(np.float32))
        np.testing.assert_allclose(labels.progress_m[row], scored.progress_m, rtol=0, atol=5.1e-3)
        np.testing.assert_array_equal(rounded(labels.plans[row]), labels.plans[row])


def test_known_hacks_get_known_labels(world, in_process, tmp_path):
    labels = write(world, tmp_path)
    off_road = labels.source == SOURCES.index("off_road")
    assert labels.raw[..., 1][off_road].mean() < 0.5, "leaving the road fails the drivable area"
    human = labels.source == SOURCES.index("human")
    assert labels.raw[..., 0][human].min() == 1.0, "the human collides with nothing"
    jittery = labels.source == SOURCES.index("jittery")
    assert labels.raw[..., 7][jittery].mean() < labels.raw[..., 7][human].mean(), "jitter is uncomfortable"


def unfinish(folder):
    """As a driver leaves the folder that was killed before it was done."""
    record = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps(record | {"whole": False, "facts": {}}))


def test_finished_shards_are_kept_and_the_result_is_the_same(world, in_process, tmp_path):
    whole = write(world, tmp_path / "whole")
    assert in_process == [f"log-{index}" for index in range(6)]
    again = tmp_path / "again"
    write(world, again)
    unfinish(again)
    (again / "log-1.parquet").unlink()
    (again / ".log-1.parquet.x.parquet").write_bytes(b"half")
    first = (again / "log-0.parquet").stat()
    in_process.clear()
    resumed = write(world, again)
    assert in_process == ["log-1"]
    assert (again / "log-0.parquet").stat().st_ino == first.st_ino
    assert not list(again.glob(".*"))
    assert whole.fingerprint == resumed.fingerprint
    np.testing.assert_array_equal(whole.raw, resumed.raw)
    np.testing.assert_array_equal(whole.plans, resumed.plans)


def test_whole_labels_are_left_alone(world, in_process, tmp_path):
    write(world, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    in_process.clear()
    write(world, tmp_path)
    assert in_process == []
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_how_fast_labels_are_made_does_not_change_them(world, in_process, tmp_path):
    fine = write(world, tmp_path, CONFIG.with_overrides({"rows_per_chain_batch": 1}))
    in_process.clear()
    coarse = write(world, tmp_path, CONFIG.with_overrides({"workers": 2}))
    assert in_process == [], "they are the same labels"
    np.testing.assert_array_equal(fine.raw, coarse.raw)
    whole = write(world, tmp_path / "coarse")
    np.testing.assert_array_equal(fine.plans, whole.plans)


def test_labels_of_two_commits_are_told_once(world, in_process, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(artefact, "code_version", lambda: CodeVersion("1.0", "a" * 40, dirty=False))
    write(world, tmp_path)
    unfinish(tmp_path)
    (tmp_path / "log-1.parquet").unlink()
    monkeypatch.setattr(artefact, "code_version", lambda: CodeVersion("1.0", "b" * 40, dirty=False))
    with caplog.at_level(logging.WARNING):
        write(world, tmp_path)
        write(world, tmp_path)
    assert caplog.text.count("begun with code 1.0 at aaaaaaaa, goes on with 1.0 at bbbbbbbb") == 1
    assert len(find_record(Location.of(tmp_path)).code) == 2


def test_a_folder_of_another_job_is_refused(world, in_process, tmp_path):
    write(world, tmp_path)
    with pytest.raises(ConfigError, match="seed: 3 then, 4 now"):
        write(world, tmp_path, seed=4)
    with pytest.raises(ConfigError, match=r"label\.proposals\.manoeuvre: 4 then, 5 now"):
        write(world, tmp_path, CONFIG.with_overrides({"proposals.manoeuvre": 5}))


def test_labels_of_another_scorer_are_refused(world, in_process, tmp_path, monkeypatch):
    write(world, tmp_path)
    monkeypatch.setattr(labelling, "SCORER_VERSION", 99)
    with pytest.raises(ConfigError, match=r"scorer_version: \d+ then, 99 now"):
        write(world, tmp_path)


def test_a_label_of_the_vocabulary_is_an_index(world, in_process, tmp_path):
    proposals = ProposalConfig(vocabulary_size=8, vocabulary=64, policy=0, denoising=0, human=0)
    nothing = dict.fromkeys(("perturbed", "jittery", "off_road", "reversed", "hard_brake", "speeding", "manoeuvre"), 0)
    labels = write(world, tmp_path, LabelConfig(proposals=proposals.with_overrides(nothing)))
    known = {plan.tobytes() for plan in labels.vocabulary.astype(np.float32)}
    assert all(plan.tobytes() in known for plan in labels.plans.reshape(-1, 8, 3))
    for path in tmp_path.glob("*.parquet"):
        assert pq.read_table(path)["steps"].to_pylist() == [[], []]


def test_labels_of_a_real_scorer_take_few_bytes(tmp_path_factory, in_process, tmp_path):
    """Logs of two rows, whose files are mostly overhead, hold both bounds; those of many rows take a third of them."""
    world = write_world(tmp_path_factory.mktemp("larger"), rows=24)
    known = ProposalConfig(vocabulary_size=256, vocabulary=64, policy=0, denoising=0, human=0)
    nothing = dict.fromkeys(("perturbed", "jittery", "off_road", "reversed", "hard_brake", "speeding", "manoeuvre"), 0)
    for name, proposals, bound in (
        ("known", known.with_overrides(nothing), 40.0),
        ("own", ProposalConfig(vocabulary=1, perturbed=31, manoeuvre=31, policy=0, denoising=0), 80.0),
    ):
        labels = write(world, tmp_path / name, LabelConfig(proposals=proposals))
        assert labels.source.size >= 1000
        size_bytes = sum(path.stat().st_size for path in (tmp_path / name).glob("*.parquet"))
        assert size_bytes / labels.source.size <= bound


def test_labels_lie_in_an_object_store_as_well(world, in_process, tmp_path, bucket):
    here, there = write(world, tmp_path), write(world, bucket / "labels")
    assert here.fingerprint == there.fingerprint
    np.testing.assert_array_equal(here.plans, there.plans)
    np.testing.assert_array_equal(here.raw, there.raw)


def test_reactive_traffic_is_refused_for_labels(world, tmp_path):
    with pytest.raises(ConfigError, match=r"scorer\.traffic: expected 'replay'"):
        write_labels(LabelInputs(*world), tmp_path, CONFIG, ScorerConfig(traffic="reactive"), 0)


def test_unfinished_labels_are_refused(world, in_process, tmp_path):
    write(world, tmp_path)
    unfinish(tmp_path)
    with pytest.raises(CheckpointError, match="finished labels, found one that is half-written"):
        open_labels(tmp_path)


def test_labels_of_an_older_schema_are_refused_with_the_way_to_rebuild_them(world, in_process, tmp_path):
    write(world, tmp_path)
    record = json.loads((tmp_path / RECORD_NAME).read_text())
    record["identity"]["schema"] = 2
    (tmp_path / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(
        CheckpointError, match=r"expected schema 3 of labels, found 2; delete it and run `irl-vla label`"
    ):
        open_labels(tmp_path)
    with pytest.raises(ConfigError, match=r"schema: 2 then, 3 now.*delete the folder and run `irl-vla label`"):
        write(world, tmp_path)


def test_a_shard_of_another_run_is_refused(world, in_process, tmp_path):
    write(world, tmp_path)
    write(world, tmp_path / "other", seed=4)
    shutil.copy(tmp_path / "other" / "log-1.parquet", tmp_path / "log-1.parquet")
    with pytest.raises(CheckpointError, match=r"log-1\.parquet: expected a shard of label set"):
        open_labels(tmp_path)


def test_a_lost_shard_is_noticed(world, in_process, tmp_path):
    write(world, tmp_path)
    (tmp_path / "log-2.parquet").unlink()
    with pytest.raises(CheckpointError, match="expected labels of 6 logs, found none of 1, first log-2"):
        open_labels(tmp_path)


def test_rows_without_a_prepared_scene_are_counted_and_named(world, in_process, tmp_path, monkeypatch, caplog):
    opened = PreparedStore.open
    monkeypatch.setattr(
        PreparedStore,
        "open",
        classmethod(lambda cls, folder: replace(s := opened(folder), places=dict(list(s.places.items())[:7]))),
    )
    labels = write(world, tmp_path)
    assert len(labels.rows) == 7
    assert find_record(Location.of(tmp_path)).facts["rows_without_scene"] == 5
    assert f"5 of 12 bank rows have no prepared scene, e.g. {7:016x}" in caplog.text


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
