from pathlib import Path

import pytest

from irl_vla.errors import ConfigError, IrlVlaError
from irl_vla.ledger.storage import Location
from irl_vla.ledger.tracking import TrackingConfig, child_runs, open_store, stage_run

CONFIG = TrackingConfig()


def test_stages_are_children_of_one_parent_and_unfinished_ones_go_on(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    with stage_run(CONFIG, place, "demo", "pretrain", {"lr": 0.1, "net": {"width": 8}}) as first:
        first.metrics({"pretrain/loss": 2.0}, step=1)
        first.metrics({"pretrain/loss": 1.0, "pretrain/bad": float("nan")}, step=2)
        (tmp_path / "table.csv").write_text("a\n")
        first.artifact(tmp_path / "table.csv")
    interrupted = ""
    with pytest.raises(KeyboardInterrupt), stage_run(CONFIG, place, "demo", "label", {}) as run:
        interrupted = run.run_id
        raise KeyboardInterrupt
    with stage_run(CONFIG, place, "demo", "label", {}) as again:
        assert again.run_id == interrupted

    client, experiment = open_store(CONFIG, place)
    children = child_runs(client, experiment, (tmp_path / "mlflow_parent.txt").read_text())
    assert {run.info.run_name: run.info.status for run in children} == {"pretrain": "FINISHED", "label": "FINISHED"}
    pretrain = client.get_run(first.run_id).data
    assert pretrain.params == {"lr": "0.1", "net.width": "8"}
    assert pretrain.metrics == {"pretrain/loss": 1.0}
    assert [m.value for m in client.get_metric_history(first.run_id, "pretrain/loss")] == [2.0, 1.0]
    assert [item.path for item in client.list_artifacts(first.run_id)] == ["table.csv"]


def test_nothing_is_written_when_switched_off(tmp_path: Path) -> None:
    with stage_run(TrackingConfig(enabled=False), Location.of(tmp_path), "demo", "label", {"a": 1}) as run:
        run.metrics({"label/x": 1.0})
        run.artifact(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(IrlVlaError, match="tracking store nonsense"):
        open_store(TrackingConfig(uri="nonsense://x"), Location.of(tmp_path))


def test_an_object_store_cannot_hold_the_default_store() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/demo: name a server or a local file by tracking\.uri"):
        open_store(CONFIG, Location.of("s3://bucket/demo"))
