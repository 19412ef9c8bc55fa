"""``irl-vla run`` from nothing to the report, and what it leaves behind."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irl_vla.judge.bank_plans import frames_of_bank
from irl_vla.judge.judgement import GENERATED
from irl_vla.judge.policies import POLICIES
from irl_vla.judge.slowed import FRONTIER, STRENGTHS
from irl_vla.ledger.checkpoint import load_checkpoint
from irl_vla.ledger.storage import Location
from irl_vla.ledger.tracking import child_runs, open_store
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.reward.labels import open_labels
from irl_vla.reward.proposals import SOURCES
from irl_vla.scene import SUBSCORES
from irl_vla.stages import folders

from .command import is_whole, run, stamps
from .conftest import Chain

STAGES = ("pretrain", "label", "train_reward", "finetune")
SCENES = {"train": 8 * 2, "val": 2 * 2, "test": 6 * 2}  # 13 frames hold two windows of 4 + 8


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def results(chain: Chain) -> dict[str, dict[str, float]]:
    table = rows(chain.seed / "evaluate" / "results.csv")
    return {
        row["policy"]: {key: float(value) for key, value in row.items() if key not in ("policy", "split") and value}
        for row in table
    }


@pytest.fixture(scope="module")
def children(chain: Chain) -> dict[str, Any]:
    client, experiment_id = open_store(chain.experiment.tracking, Location.of(chain.seed))
    (parent,) = client.search_runs([experiment_id], "attributes.run_name = 'chain, seed 0'")
    return {run.info.run_name: run for run in child_runs(client, experiment_id, parent.info.run_id)}


def test_every_policy_is_judged(chain: Chain, results: dict[str, dict[str, float]]) -> None:
    assert [name for name in results if name not in STRENGTHS] == list(chain.experiment.evaluate.policies)
    assert {name for name, row in results.items() if "equal_progress" in row} == {*results} - {*FRONTIER}
    for name, row in results.items():
        values = [row[key] for key in (*SUBSCORES, "epdms")]
        assert all(math.isfinite(value) and 0 <= value <= 100 for value in values), name
        assert row["epdms_low"] <= row["epdms"] <= row["epdms_high"]
        assert ("predicted" in row) == (name in POLICIES and POLICIES[name].kind == "trained")
    assert results["human"]["epdms"] > results["constant_velocity"]["epdms"]
    gap = results["human"]["epdms"] - results["constant_velocity"]["epdms"]
    assert results["human"]["minus_constant_velocity"] == pytest.approx(gap)
    assert all(f"│ {name} " in chain.finished.stdout for name in results), "a policy is missing in the table"
    assert GENERATED in chain.finished.stdout
    assert "the learned reward on val, by source of plans" in chain.finished.stdout


def test_frames_add_up_to_the_results(chain: Chain, results: dict[str, dict[str, float]]) -> None:
    frames = rows(chain.seed / "evaluate" / "frames.csv")
    plans = json.loads((chain.seed / "evaluate" / "plans.json").read_text())["policies"]
    for name, row in results.items():
        own = [frame for frame in frames if frame["policy"] == name]
        assert len({frame["token"] for frame in own}) == len(own) == SCENES["test"]
        assert 100 * np.mean([float(frame["score"]) for frame in own]) == pytest.approx(row["epdms"])
        assert sum(frame["ec"] != "nan" for frame in own) == SCENES["test"] // 2, "the second frame of a log has EC"
        assert {token: plan["score"] for token, plan in plans[name].items()} == {
            frame["token"]: float(frame["score"]) for frame in own
        }
    logs = rows(chain.seed / "evaluate" / "logs.csv")
    assert len(logs) == len(results) * 6


def test_training_scenes_are_judged_beside(chain: Chain, results: dict[str, dict[str, float]]) -> None:
    table = rows(chain.seed / "evaluate" / "training_results.csv")
    assert [row["policy"] for row in table] == list(results)
    assert {row["split"] for row in table} == {"train"}
    frames = {row["token"] for row in rows(chain.seed / "evaluate" / "training_frames.csv")}
    bank = frames_of_bank(TokenBank.open(folders.bank_path(chain.experiment, "train")))
    assert frames <= {frame.token for frame in bank}
    assert len(frames) == SCENES["test"], "whole logs, of as many scenes as each test log has"
    assert "TRAINING scenes, a part of train" in chain.finished.stdout


def test_banks_labels_and_checkpoints_fit_together(chain: Chain) -> None:
    experiment = chain.experiment
    banks = {name: TokenBank.open(folders.bank_path(experiment, name)) for name in SCENES}
    assert {name: len(frames_of_bank(bank)) for name, bank in banks.items()} == SCENES
    assert (banks["train"].view != "original").any()
    assert len({bank.perception_hash for bank in banks.values()}) == 1
    labels = open_labels(chain.seed / "label" / "set")
    assert labels.tokens == tuple(banks["train"].token)
    assert labels.plans.shape[1] == experiment.label.proposals.count
    known = (labels.source == SOURCES.index("vocabulary")).sum()
    size_bytes = sum(path.stat().st_size for path in (chain.seed / "label" / "set").glob("*.parquet"))
    assert labels.source.size >= 1000
    assert size_bytes <= 40 * known + 80 * (labels.source.size - known), "docs/data.md: bytes of a label"
    for policy in POLICIES.values():
        if policy.kind == "trained":
            load_chain(chain.seed / str(policy.checkpoint), perception_hash=banks["test"].perception_hash)
    reward = load_checkpoint(chain.seed / "train_reward" / "checkpoint", "reward")
    assert labels.fingerprint in reward.provenance.inputs.values()
    for stage in STAGES:
        assert is_whole(chain.seed / stage)


def test_every_stage_is_tracked_below_one_parent(chain: Chain, children: dict[str, Any]) -> None:
    assert set(children) == {"pretrain", "label", "train-reward", "finetune", "evaluate", "report"}
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    for name, child in children.items():
        assert child.data.params["seed"] == "0"
        stage = name.replace("-", "_")
        if name != "report":
            assert {key.split("/")[0] for key in child.data.metrics} == {stage}
            assert all(math.isfinite(value) for value in child.data.metrics.values())
    assert children["pretrain"].data.params["steps"] == "2"
    assert children["finetune"].data.params["weights.safety"] == "1.0"
    assert {"pretrain/loss_total", "pretrain/val_epdms"} <= set(children["pretrain"].data.metrics)
    assert {"finetune/reward", "finetune/val_epdms"} <= set(children["finetune"].data.metrics)
    assert "finetune/val_equal_progress" in children["finetune"].data.metrics
    names = {"human_epdms", "finetuned_equal_progress", "training_finetuned_equal_progress"}
    assert {f"evaluate/{name}" for name in names} <= set(children["evaluate"].data.metrics)


def test_artifacts_are_stored(chain: Chain, children: dict[str, Any]) -> None:
    client, _ = open_store(chain.experiment.tracking, Location.of(chain.seed))

    def stored(name: str, folder: str | None = None) -> set[str]:
        return {item.path for item in client.list_artifacts(children[name].info.run_id, folder)}

    assert {"results.csv", "frames.csv", "logs.csv", "training_results.csv"} <= stored("evaluate")
    assert {"perception.csv", "perception_boxes.csv"} <= stored("pretrain")
    assert {f"quality_{name}.csv" for name in ("subscores", "bins", "picks")} <= stored("train-reward")
    assert "report/index.html" in stored("report", "report")


def test_report_shows_pictures_that_exist(chain: Chain) -> None:
    page = chain.folder / "runs" / "chain" / "report" / "index.html"
    text = page.read_text()
    assert f'<p class="label">{GENERATED}</p>' in text
    pictures = re.findall(r'<img src="([^"]+)"', text)
    assert sum(name.startswith("scenes/") for name in pictures) == chain.experiment.report.scenes
    assert {"finetune-seed-0.png", "frontier-seed-0.png", "training_frontier-seed-0.png"} <= set(pictures)
    assert {"perception-map-seed-0.png", "reliability-validation-seed-0.png", "reliability-held-out-seed-0.png"} <= set(
        pictures
    )
    for name in pictures:
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")
    for name in chain.experiment.evaluate.policies:
        assert f"<td>{name}</td>" in text


def test_again_everything_is_left_alone(chain: Chain) -> None:
    whole = [
        *(chain.seed / stage for stage in STAGES),
        chain.folder / "data",
        chain.folder / "runs/chain/shared/samples",
    ]
    results = (chain.seed / "evaluate" / "results.csv").read_bytes()
    before = stamps(*whole)
    again = run(chain.folder, *chain.command("run"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert stamps(*whole) == before
    assert "already generated" in again.stderr
    for stage in STAGES:
        assert f"{stage}: whole already" in again.stderr
    assert (chain.seed / "evaluate" / "results.csv").read_bytes() == results


@pytest.mark.parametrize(
    ("stage", "override", "named"),
    [
        ("generate", "generate.frames_per_log=14", "remove this one"),
        ("pretrain", "pretrain.learning_rate=0.5", "pretrain.learning_rate: 0.0005 then, 0.5 now"),
        ("label", "evaluate.scorer.human_filter=false", "evaluate.scorer.human_filter: True then, False now"),
        ("finetune", "finetune.weights.safety=2", "finetune.weights.safety: 1.0 then, 2.0 now"),
        ("evaluate", "label.proposals.human=0", "label.proposals.human: 1 then, 0 now"),
    ],
)
def test_a_changed_key_is_refused_and_named(chain: Chain, stage: str, override: str, named: str) -> None:
    before = stamps(*(chain.seed / name for name in STAGES))
    refused = run(chain.folder, *chain.command(stage, override))
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr
    assert stamps(*(chain.seed / name for name in STAGES)) == before


def test_the_number_of_workers_may_change(chain: Chain) -> None:
    found = run(chain.folder, *chain.command("label", "label.workers=1", "pretrain.samples.workers=2"))
    assert found.returncode == 0, found.stderr[-3000:]
    assert "label: whole already" in found.stderr
