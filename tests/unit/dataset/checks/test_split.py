"""Rules on split files, each broken alone in a file as the project writes it."""

import re

import pytest
import yaml

from irl_vla.dataset.checks.dataset import check_dataset
from irl_vla.dataset.checks.split import check_splits
from irl_vla.dataset.config import SceneFilter
from irl_vla.dataset.splits import StagePair, read_split, write_split
from irl_vla.ledger.files import content_hash

from ..example import LOG, write_example

TOKENS = tuple(content_hash([LOG, index]) for index in range(3, 8))
NUMBER = "12e4567890123456"


@pytest.fixture
def written(tmp_path):
    """A data set, and a split of five named scenes of its log."""
    dataset = write_example(tmp_path, sensors=False)
    rule = SceneFilter(num_future_frames=8, frame_interval=1, tokens=TOKENS, log_names=(LOG,))
    return dataset, write_split(tmp_path, "named", "mini", rule)


def findings(dataset, name, scenes=5):
    return list(check_splits(dataset, [read_split(dataset, name)], {name: scenes}))


def rewrite(path, change):
    values = yaml.safe_load(path.read_text())
    change(values["scene_filter"])
    path.write_text(yaml.safe_dump(values))


BREACHES = {
    "no target": (lambda fields: fields.pop("_target_"), "split.hydra", "scene_filter._target_"),
    "another target": (lambda fields: fields.update(_target_="a.b"), "split.hydra", "scene_filter._target_"),
    "no conversion": (lambda fields: fields.pop("_convert_"), "split.hydra", "scene_filter._convert_"),
    "short future": (lambda fields: fields.update(num_future_frames=7), "split.future", "num_future_frames"),
    "token twice": (lambda fields: fields["tokens"].append(TOKENS[0]), "split.repeated", "tokens"),
    "log twice": (lambda fields: fields["log_names"].append(LOG), "split.repeated", "log_names"),
    "long token": (lambda fields: fields["tokens"].__setitem__(0, "a" * 17), "split.token_form", "tokens"),
    "no hex token": (lambda fields: fields["tokens"].__setitem__(0, "g" * 16), "split.token_form", "tokens"),
}


def test_what_is_written_has_no_findings(written):
    dataset, _ = written
    assert findings(dataset, "named") == findings(dataset, "train", 5) == findings(dataset, "mini") == []
    report = check_dataset(dataset)
    assert not [name for name in report.folders[0].gathered.kinds if name.startswith("split.")]


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found_and_named(written, name):
    dataset, path = written
    change, rule, key = BREACHES[name]
    rewrite(path, change)
    (found,) = findings(dataset, "named")
    assert (found.severity, found.rule, found.key, found.count) == ("warning", rule, key, 1)
    assert found.file == "train_test_split/named.yaml"
    assert re.match(r"expected .*, found ", found.message)


def test_filters_in_files_of_their_own(written):
    dataset, path = written
    fields = yaml.safe_load(path.read_text())["scene_filter"]
    del fields["_target_"]
    (path.parent / "scene_filter").mkdir()
    (path.parent / "scene_filter/few.yaml").write_text(yaml.safe_dump(fields))
    path.write_text("data_split: mini\ndefaults:\n  - _self_\n  - scene_filter: few\n")
    (found,) = findings(dataset, "named")
    assert (found.file, found.rule) == ("train_test_split/scene_filter/few.yaml", "split.hydra")


def test_tokens_without_a_scene(written):
    dataset, path = written
    rewrite(path, lambda fields: fields["tokens"].append("0" * 16))
    kind = check_dataset(dataset, ["named"]).folders[0].gathered.kinds["split.tokens tokens"]
    assert kind.examples[0].message == "expected 6 scenes, as many as tokens, found 5 in the logs at hand"
    rewrite(path, lambda fields: fields.update(max_scenes=2))
    assert findings(dataset, "named", 2) == []


@pytest.mark.parametrize(("token", "times"), [(NUMBER, 1), (f"'{NUMBER}'", 0), (f'"{NUMBER}"', 0)])
def test_tokens_that_look_like_numbers_need_quotes(written, token, times):
    dataset, path = written
    path.write_text(path.read_text().replace(f"'{TOKENS[0]}'", token))
    assert NUMBER in path.read_text()
    assert [found.rule for found in findings(dataset, "named")] == ["split.quotes"] * times


@pytest.mark.parametrize(
    ("pair", "count"),
    [
        (StagePair(TOKENS[1], TOKENS[0], (("a" * 17, "b" * 17),)), 0),
        (StagePair(TOKENS[1], TOKENS[0], (("a" * 16, "b" * 17),)), 1),
        (StagePair("c" * 17, TOKENS[0], (("a" * 17, "b" * 17),)), 1),
    ],
)
def test_tokens_of_both_stages(written, pair, count):
    dataset, _ = written
    write_split(dataset.root, "two", "mini", SceneFilter(num_future_frames=8, frame_interval=1), [pair])
    found = findings(dataset, "two")
    assert [(item.rule, item.key, item.count) for item in found] == [
        ("split.token_form", "reactive_all_mapping", 1)
    ] * count
