"""Every ready experiment loads, says only what departs from the defaults, and comes back from its own printout."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from irl_vla.config import load_values
from irl_vla.errors import ConfigError
from irl_vla.stages.experiment import Experiment, load_experiment

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything that a file says."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def without(values: Mapping[str, Any], dotted: str) -> dict[str, Any]:
    key, _, rest = dotted.partition(".")
    if rest:
        return {**values, key: without(values[key], rest)}
    return {name: value for name, value in values.items() if name != key}


def loaded(values: Mapping[str, Any], folder: Path) -> Experiment | None:
    """The experiment that a file with these values describes; None if it is refused."""
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump({"name": "same", **values}))
    try:
        return load_experiment(path, [])
    except ConfigError:
        return None


def test_there_are_configurations() -> None:
    assert {"smoke", "reference", "navsim"} <= {path.stem for path in CONFIGS}


@each
def test_says_only_departures_from_the_defaults(path: Path, tmp_path: Path) -> None:
    values = load_values(path)
    experiment = loaded(values, tmp_path)
    repeated = [key for key in leaves(values) if loaded(without(values, key), tmp_path) == experiment]
    assert not repeated, f"{path.name} repeats defaults: {', '.join(repeated)}"


@each
def test_printout_loads_back_to_the_same_experiment(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path, ["seed=7"])
    assert (experiment.name, experiment.seed) == (path.stem, 7)
    printed = tmp_path / "other-name.yaml"
    printed.write_text(experiment.to_yaml())
    assert load_experiment(printed, []) == experiment


@each
def test_says_in_its_first_line_what_it_is_for(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 40


@each
def test_an_unknown_key_is_refused_with_the_nearest(path: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(path.read_text() + "\nfinetun: {iterations: 3}\n")
    with pytest.raises(ConfigError, match=r"changed\.yaml: unknown key 'finetun'; did you mean 'finetune'\?"):
        load_experiment(changed, [])
    with pytest.raises(
        ConfigError, match=r"unknown key 'evaluate\.bootstrap_sample'; did you mean 'bootstrap_samples'"
    ):
        load_experiment(path, ["evaluate.bootstrap_sample=300"])
    with pytest.raises(ConfigError, match=r"no section 'model\.encoder\.gird'; did you mean 'grid'"):
        load_experiment(path, ["model.encoder.gird.cell_m=2"])


def test_the_full_size_validates_on_drives_held_out_of_training() -> None:
    """`navmini` is made of training scenes; what `irl-vla split --from navtrain` writes is not."""
    full = next(path for path in CONFIGS if path.stem == "full")
    data = load_experiment(full, []).data
    assert data.splits == {"train": "navtrain_train", "val": "navtrain_val", "test": "navtest"}
    assert "irl-vla split /data/openscene --from navtrain --hold-out 0.05" in full.read_text()


@each
def test_every_role_has_a_split_of_its_own(path: Path) -> None:
    assert len(set(load_experiment(path, []).data.splits.values())) == 3
