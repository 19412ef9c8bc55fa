"""The table of policies: every other list of them agrees with it."""

from pathlib import Path
from typing import get_args

import pytest

from irl_vla.judge.policies import DETERMINISTIC, POLICIES
from irl_vla.stages import folders
from irl_vla.stages.experiment import EvaluateConfig, Experiment, PolicyName
from irl_vla.stages.run import STAGES


def test_configurations_know_the_policies_of_the_table() -> None:
    assert get_args(PolicyName) == tuple(POLICIES)
    assert EvaluateConfig().policies == DETERMINISTIC
    assert [*DETERMINISTIC, "imitation_best_of", "finetuned_best_of"] == list(POLICIES)
    assert set(EvaluateConfig().against) <= set(POLICIES)


def test_stages_train_what_the_table_says(tmp_path: Path) -> None:
    experiment = Experiment(name="x", runs=tmp_path)
    for name, policy in POLICIES.items():
        if policy.checkpoint is None:
            assert policy.kind == "baseline"
            with pytest.raises(ValueError, match=name):
                folders.checkpoint(experiment, name)
        else:
            assert policy.stage in STAGES
            assert policy.splits == ("train", "val", "test"), "a stage that trains looks at all splits"
            assert folders.checkpoint(experiment, name) == experiment.folder / policy.checkpoint
    assert folders.policy_path(experiment) == folders.stage_folder(experiment, "pretrain") / "policy"
