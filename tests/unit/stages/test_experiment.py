"""Experiment files and the folders that remember what they were made with."""

import json
from pathlib import Path

import pytest

from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.stages.experiment import Experiment, StageFolder, load_experiment
from irl_vla.world.config import TwoStageConfig

SETTINGS = {"pretrain": {"steps": 4, "samples": {"workers": 1}}, "seed": 0}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_file_names_the_experiment_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path / "mine.yaml", "seed: 2"), []).name == "mine"
    named = write(tmp_path / "other.yaml", "name: yours")
    assert load_experiment(named, []).name == "yours"
    assert load_experiment(named, ["name=theirs"]).name == "theirs"


def test_overrides_beat_the_file_and_the_file_beats_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "finetune: {iterations: 5, lr: 0.01}")
    found = load_experiment(path, ["finetune.iterations=6"])
    assert (found.finetune.iterations, found.finetune.lr) == (6, 0.01)
    assert found.finetune.clip == Experiment(name="a").finetune.clip


def test_a_part_that_the_file_leaves_out_can_be_set_by_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "generate: {two_stage: null}")
    generate = load_experiment(path, ["generate.two_stage.groups=40", "generate.two_stage.pairs_min=9"]).generate
    assert generate is not None
    assert generate.two_stage == TwoStageConfig(groups=40, pairs_min=9)
    with pytest.raises(ConfigError, match=r"generate\.two_stage\.groups: Field required"):
        load_experiment(path, ["generate.two_stage.pairs_min=9"])


def test_folders_are_absolute_and_one_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(name="a", runs=Path("here"), seed=3)
    assert experiment.root == tmp_path / "here" / "a"
    assert experiment.folder == tmp_path / "here" / "a" / "seed-3"
    assert experiment.shared == tmp_path / "here" / "a" / "shared"


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a b"])
def test_names_stay_inside_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name: "):
        load_experiment(write(tmp_path / "a.yaml", f"name: {name!r}"), [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.policies=[human,nobody]", "evaluate.policies.1: Input should be 'constant_velocity', "),
        ("evaluate.policies=[]", "evaluate.policies: "),
        ("evaluate.against=[nobody]", "evaluate.against.0: "),
        ("seed=-1", "seed: Input should be greater than or equal to 0, found -1"),
        ("sweep.safety=[1]", "sweep.safety"),
    ],
)
def test_unfit_values_are_refused_when_the_file_is_read(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load_experiment(write(tmp_path / "a.yaml", "seed: 0"), [override])


def made(folder: Path, settings: dict[str, object], inputs: dict[str, str] | None = None) -> StageFolder:
    """A stage that was begun and has made something."""
    stage = StageFolder(folder, settings, inputs or {})
    (stage.begin() / "result").touch()
    return stage


def test_a_stage_is_whole_once_it_is_finished(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "pretrain", SETTINGS, {})
    assert not stage.is_whole
    assert not stage.path.exists(), "asking makes nothing"
    assert stage.begin() == tmp_path / "pretrain"
    assert not stage.is_whole
    with pytest.raises(
        CheckpointError, match=r"expected the finished stage 'train_reward'; run `irl-vla train-reward`"
    ):
        stage.require("train_reward")
    stage.finish()
    again = StageFolder(tmp_path / "pretrain", SETTINGS, {})
    assert again.is_whole
    assert again.require("pretrain") == stage.fingerprint
    again.begin()
    assert again.is_whole, "taking it up again with the same settings changes nothing"


def test_other_settings_are_refused_and_the_keys_named(tmp_path: Path) -> None:
    made(tmp_path, SETTINGS).finish()
    other = StageFolder(tmp_path, {"pretrain": {"steps": 5, "samples": {"workers": 1}}, "seed": 1}, {})
    expected = r"2 differ: pretrain\.steps: 4 then, 5 now; seed: 0 then, 1 now\).*another name= or seed=, or delete"
    for ask in (lambda: other.is_whole, other.begin, lambda: other.require("pretrain")):
        with pytest.raises(ConfigError, match=expected):
            ask()
    assert json.loads((tmp_path / "stage.json").read_text())["config"] == SETTINGS, "the record stays"


def test_keys_that_came_or_went_are_named(tmp_path: Path) -> None:
    made(tmp_path, {"a": 1, "b": 2})
    with pytest.raises(ConfigError, match=r"b: 2 then, None now; c: None then, 3 now"):
        StageFolder(tmp_path, {"a": 1, "c": 3}, {}).begin()


def test_many_differences_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    made(tmp_path, {f"k{index}": 0 for index in range(9)})
    with pytest.raises(ConfigError, match=r"9 differ: k0.*k4: 0 then, 1 now\)") as caught:
        StageFolder(tmp_path, {f"k{index}": 1 for index in range(9)}, {}).begin()
    assert "k5" not in str(caught.value)


def test_other_inputs_are_other_results(tmp_path: Path) -> None:
    first = made(tmp_path, SETTINGS, {"pretrain": "abc"})
    second = StageFolder(tmp_path, SETTINGS, {"pretrain": "def"})
    assert first.fingerprint != second.fingerprint
    with pytest.raises(ConfigError, match=r"inputs\.pretrain: 'abc' then, 'def' now"):
        second.begin()


def test_a_folder_in_which_nothing_was_made_is_free(tmp_path: Path) -> None:
    StageFolder(tmp_path, SETTINGS, {}).begin()
    other = StageFolder(tmp_path, {"seed": 1}, {})
    assert not other.is_whole
    other.begin()
    assert json.loads((tmp_path / "stage.json").read_text())["config"] == {"seed": 1}


def test_paths_and_tuples_compare_as_they_are_stored(tmp_path: Path) -> None:
    made(tmp_path, {"root": Path("data"), "cameras": ("CAM_F0",)}).finish()
    assert StageFolder(tmp_path, {"root": Path("data"), "cameras": ("CAM_F0",)}, {}).is_whole
