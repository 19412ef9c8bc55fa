"""Experiment files and the folders that remember what they were made with."""

from pathlib import Path

import pytest

from irl_vla.errors import ConfigError
from irl_vla.stages.experiment import Experiment, load_experiment
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
    assert experiment.root.path == tmp_path / "here" / "a"
    assert experiment.folder.path == tmp_path / "here" / "a" / "seed-3"
    assert experiment.shared.path == tmp_path / "here" / "a" / "shared"
    assert Experiment(name="a", runs="s3://bucket/runs").folder.uri == "s3://bucket/runs/a/seed-0"


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
