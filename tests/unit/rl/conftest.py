from collections.abc import Iterator
from pathlib import Path

import pytest

from irl_vla.rl import task
from irl_vla.rl.config import FinetuneConfig
from irl_vla.rl.task import TaskSpec, open_task

from .micro import SpeedBackend, make_micro

#: Without an audit: the micro bank has no prepared scenes.
CONFIG = FinetuneConfig(
    iterations=4,
    scenes_per_iteration=4,
    chains_per_scene=3,
    minibatches=2,
    validate_every=2,
    checkpoint_every=2,
    audit_share=0.0,
)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskSpec]:
    monkeypatch.setattr(task, "make_backend", lambda *args, **kwargs: SpeedBackend())
    open_task.cache_clear()
    yield make_micro(tmp_path, CONFIG)
    open_task.cache_clear()
