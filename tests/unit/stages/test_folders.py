"""What binds the result of a stage, and what does not."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irl_vla.dataset.fingerprint import DatasetFingerprint, hash_cache
from irl_vla.dataset.split_guard import SharedScenes, SplitOverlap
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.judge.for_each import ForEach, on_ray
from irl_vla.ledger.artefact import Artefact
from irl_vla.ledger.storage import Location
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(name="x", runs=str(tmp_path), data={"root": tmp_path / "data"})


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> dict[str, DatasetFingerprint]:
    """What the data set holds, to be changed by tests."""
    found = {"now": DatasetFingerprint("generated", 3, "logs", "maps", "splits", "sensors", "world")}
    monkeypatch.setattr(folders, "training_dataset", lambda experiment: SimpleNamespace())
    monkeypatch.setattr(folders, "fingerprint", lambda dataset, *splits: found["now"])
    return found


def finish(stage: Artefact) -> None:
    (stage.begin() / "result").write_text("")
    stage.finish()


def finish_all(experiment: Experiment) -> None:
    for stage in (folders.pretrain, folders.label, folders.train_reward, folders.finetune):
        finish(stage(experiment))


@pytest.mark.parametrize(
    "override",
    [
        {"pretrain.samples.workers": 5},
        {"pretrain.threads_per_worker": 3},
        {"pretrain.use_gpu": True},
        {"pretrain.log_every": 1},
        {"label.workers": 7},
        {"train_reward.max_failures": 9},
        {"finetune.backend.actors": 2},
        {"finetune.env_runners": 4},
        {"ray.cpus": 2},
        {"tracking.enabled": False},
        {"report.scenes": 1},
        {"evaluate.bootstrap_samples": 100},
        {"evaluate.scorer.traffic": "reactive"},
    ],
    ids=lambda override: next(iter(override)),
)
def test_a_run_may_go_on_with_other_machinery(experiment: Experiment, override: dict[str, Any]) -> None:
    finish_all(experiment)
    assert folders.finetune(experiment.with_overrides(override)).is_whole()


@pytest.mark.parametrize(
    ("override", "stage"),
    [
        ({"seed": 1}, None),
        ({"data_seed": 1}, folders.pretrain),
        ({"model.encoder.width": 32}, folders.pretrain),
        ({"views.count": 2}, folders.pretrain),
        ({"pretrain.workers": 2}, folders.pretrain),
        ({"evaluate.scorer.human_filter": False}, folders.pretrain),
        ({"label.proposals.human": 0}, folders.label),
        ({"train_reward.steps": 3}, folders.train_reward),
        ({"finetune.weights.safety": 2.0}, folders.finetune),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_whatever_changes_a_result_binds_it(experiment: Experiment, override: dict[str, Any], stage: Any) -> None:
    finish_all(experiment)
    changed = experiment.with_overrides(override)
    if stage is None:
        assert not folders.pretrain(changed).is_whole(), "another seed has a folder of its own"
        return
    with pytest.raises(ConfigError, match=next(iter(override)).replace(".", r"\.")):
        assert stage(changed).is_whole()
    with pytest.raises(ConfigError, match=next(iter(override)).replace(".", r"\.")):
        assert folders.finetune(changed).is_whole(), "what comes after it is bound too"


def test_a_sweep_is_bound_by_its_ranges(experiment: Experiment) -> None:
    finish_all(experiment)
    finish(folders.sweep(experiment))
    assert folders.sweep(experiment).is_whole()
    with pytest.raises(ConfigError, match=r"sweep\.safety"):
        folders.sweep(experiment.with_overrides({"sweep.safety": (1.0, 2.0)})).begin()


@pytest.mark.parametrize("part", ["log_files", "maps", "splits", "generator"])
def test_a_stage_knows_its_data(experiment: Experiment, data: dict[str, DatasetFingerprint], part: str) -> None:
    finish_all(experiment)
    data["now"] = replace(data["now"], **{part: "other"})
    for stage in (folders.pretrain, folders.finetune, folders.require_policies):
        with pytest.raises(ConfigError, match=rf"inputs\.dataset\.{part}: .* then, 'other' now"):
            result = stage(experiment)
            result.is_whole()


def test_other_sensors_are_refused_by_imitation_and_told_by_what_follows(
    experiment: Experiment, data: dict[str, DatasetFingerprint], caplog: pytest.LogCaptureFixture
) -> None:
    finish_all(experiment)
    data["now"] = replace(data["now"], sensors="none are left")
    with pytest.raises(ConfigError, match=r"inputs\.dataset\.sensors: 'sensors' then, 'none are left' now"):
        folders.pretrain(experiment).is_whole()
    for stage in (folders.label, folders.train_reward, folders.finetune):
        assert stage(experiment).is_whole()
    folders.require_policies(experiment)
    told = [message for message in caplog.messages if "sensors that it was made from have changed" in message]
    assert len(told) == 1, "once a process"


def test_another_scorer_is_refused_where_a_score_took_part(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_all(experiment)
    monkeypatch.setattr(folders, "SCORER_VERSION", 99)
    for stage in (folders.pretrain, folders.finetune):
        with pytest.raises(ConfigError, match="scorer_version: 1 then, 99 now"):
            stage(experiment).is_whole()


def test_a_finished_policy_is_judged_where_its_training_data_is_not(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_all(experiment)

    def absent(dataset: Any, *splits: str) -> DatasetFingerprint:
        raise ConfigError("no split 'train'")

    monkeypatch.setattr(folders, "fingerprint", absent)
    folders.require_policies(experiment.with_overrides({"data.test": "navtest", "data.root": "/elsewhere"}))
    with pytest.raises(ConfigError, match="no split 'train'"):
        folders.pretrain(experiment.with_overrides({"seed": 7}))


def test_what_was_made_is_listed_with_its_data(experiment: Experiment, data: dict[str, DatasetFingerprint]) -> None:
    finish_all(experiment)
    finish(folders.pretrain(experiment.with_overrides({"seed": 4})))
    assert folders.made_from(experiment) == {"seed-0/pretrain": data["now"], "seed-4/pretrain": data["now"]}


def test_stages_depend_on_the_one_before(experiment: Experiment) -> None:
    with pytest.raises(CheckpointError, match="run `irl-vla pretrain` first"):
        folders.finetune(experiment)
    finish(folders.pretrain(experiment))
    with pytest.raises(CheckpointError, match="run `irl-vla label` first"):
        folders.finetune(experiment)
    finish(folders.label(experiment))
    with pytest.raises(CheckpointError, match="run `irl-vla train-reward` first"):
        folders.sweep(experiment)


def test_policies_are_asked_for_before_they_are_judged(experiment: Experiment) -> None:
    def judged(*names: str) -> Experiment:
        return experiment.with_overrides({"evaluate.policies": names})

    folders.require_policies(judged("human", "constant_velocity", "constant_acceleration", "reference"))
    for name in ("ego_mlp", "imitation"):
        with pytest.raises(CheckpointError, match="run `irl-vla pretrain` first"):
            folders.require_policies(judged("human", name))
    finish(folders.pretrain(experiment))
    folders.require_policies(judged("human", "ego_mlp", "imitation"))
    for name in ("control", "finetuned", "imitation_best_of"):  # the last needs the reward that chooses
        with pytest.raises(CheckpointError, match="run `irl-vla label` first"):
            folders.require_policies(judged(name))
    finish_all(experiment)
    folders.require_policies(judged("control", "finetuned", "imitation_best_of", "finetuned_best_of"))


def test_generated_data_has_a_place_of_its_own_and_real_data_must_exist(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENSCENE_DATA_ROOT", str(tmp_path / "official"))
    assert folders.data_root(experiment) == tmp_path / "data"
    unset = experiment.with_overrides({"data.root": None})
    assert folders.data_root(unset) == tmp_path / "data" / "x"
    with pytest.raises(ConfigError, match=r"data\.root: expected a folder, found none at .*data/x"):
        folders.dataset(unset)
    with pytest.raises(ConfigError, match=r"data\.root: expected a folder, found none at .*official"):
        folders.dataset(unset.with_overrides({"generate": None}))
    (tmp_path / "official" / "maps").mkdir(parents=True)
    assert folders.dataset(unset.with_overrides({"generate": None})).root == tmp_path / "official"


def test_only_training_scenes_have_shifted_views(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def prepare_split(
        dataset: Any,
        split: str,
        views: Any,
        folder: Location,
        seed: int,
        *,
        skip_broken: bool,
        cache: Path,
        for_each: ForEach,
    ) -> None:
        assert for_each is on_ray
        assert cache == hash_cache(), "where the data set's fingerprint remembers what was read"
        asked[split] = (views, folder, seed)

    monkeypatch.setattr("irl_vla.judge.prepare.prepare_split", prepare_split)
    monkeypatch.setattr(folders, "dataset", lambda experiment: SimpleNamespace())
    for split in ("train", "val", "test"):
        folders.prepared(experiment, split)
    assert {split: views for split, (views, _, _) in asked.items()} == {
        "train_all": experiment.views,
        "val_all": None,
        "test_all": None,
    }
    assert asked["val_all"][1:] == (experiment.shared / "prepared" / "val", experiment.data_seed)
    folders.prepared(experiment.with_overrides({"views.count": 0}), "train")
    assert asked["train_all"][0] is None


def test_all_windows_are_prepared_where_scenes_are_chosen_among_them(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "irl_vla.judge.prepare.prepare_split", lambda dataset, split, *rest, **options: asked.append(split)
    )
    monkeypatch.setattr(folders, "dataset", lambda experiment: SimpleNamespace())
    folders.prepared(experiment, "test")
    folders.prepared(experiment, "navhard_two_stage")
    folders.prepared(experiment.with_overrides({"generate.selection": None}), "test")
    folders.prepared(experiment.with_overrides({"generate": None}), "test")
    assert asked == ["test_all", "navhard_two_stage", "test", "test"]


def test_broken_logs_are_found_before_ray_and_left_out_on_request(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def whole_logs(dataset: Any, split: str, *, skip: str | None, processes: int | None) -> Any:
        asked.append((split, skip, processes))
        return dataset

    monkeypatch.setattr("irl_vla.dataset.whole_logs.whole_logs", whole_logs)
    monkeypatch.setattr(folders, "dataset", lambda experiment: SimpleNamespace())
    folders.judged_dataset(experiment.with_overrides({"ray.cpus": 3}))
    folders.judged_dataset(experiment.with_overrides({"data.skip_broken": True, "generate": None}))
    assert asked == [("test_all", "data.skip_broken=true", 3), ("test", None, None)]
    prepared: list[Any] = []
    monkeypatch.setattr("irl_vla.judge.prepare.prepare_split", lambda dataset, *rest, **more: prepared.append(dataset))
    left = SimpleNamespace()
    folders.prepared(experiment, "test", left)
    assert prepared == [left]


def test_trained_policies_that_are_judged_on_what_they_have_seen_are_told(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def overlap(dataset: Any, names: dict[str, str]) -> SplitOverlap:
        if "val" in names:
            raise ConfigError("no split 'val'")
        return SplitOverlap((SharedScenes(("train", "test"), ("train", "seen"), ("a",), (), ()),))

    monkeypatch.setattr("irl_vla.dataset.split_guard.overlap", overlap)
    seen = experiment.with_overrides({"data.test": "seen", "evaluate.policies": ("human",)})
    with caplog.at_level(logging.INFO):
        folders.warn_of_overlap(seen, SimpleNamespace())
        assert not caplog.text
        folders.warn_of_overlap(seen.with_overrides({"evaluate.policies": ("imitation",)}), SimpleNamespace())
    assert "judged on what they have seen: data.train (train) and data.test (seen) share 1 scenes (a)" in caplog.text
    assert "val: not compared with the split that is judged on (no split 'val')" in caplog.text


def test_what_depends_on_the_seed_lies_in_its_folder(experiment: Experiment) -> None:
    other = experiment.with_overrides({"seed": 5})
    assert str(folders.policy_path(other)).startswith(f"{other.folder}/")
    assert folders.bank_path(other, "val") == other.folder / "pretrain" / "banks" / "val"
    assert other.shared == experiment.shared
