"""The extra for training: the modules that stages ask for are those that pyproject.toml brings."""

import re
import tomllib
from pathlib import Path

import pytest

from irl_vla.errors import InstallationError
from irl_vla.stages import extra
from irl_vla.stages.extra import TRAIN_MODULES, missing_modules, require_train_extra

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=]", requirement)[0] for requirement in requirements}


def test_the_extra_brings_what_stages_ask_for() -> None:
    assert names(PROJECT["optional-dependencies"]["train"]) == set(TRAIN_MODULES)
    assert not names(PROJECT["dependencies"]) & set(TRAIN_MODULES)


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_modules() == []
    require_train_extra("irl-vla pretrain")
    monkeypatch.setattr(extra, "TRAIN_MODULES", ("json", "no_such_module_a", "no_such_module_b"))
    assert missing_modules() == ["no_such_module_a", "no_such_module_b"]
    message = (
        "irl-vla pretrain: expected the packages for training, found no no_such_module_a, no_such_module_b; "
        "pip install 'irl-vla[train]'"
    )
    with pytest.raises(InstallationError, match=re.escape(message)):
        require_train_extra("irl-vla pretrain")
