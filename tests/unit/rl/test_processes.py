"""Fine-tuning in several processes: env runners, scorer actors, and what is left of them. The true scorer scores."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.rl.finetune import PpoTraining, finetune
from irl_vla.rl.job import FinetuneJob, read_history
from irl_vla.rl.ppo import ppo_config
from irl_vla.rl.sampler import ChainBatch
from irl_vla.rl.task import TaskSpec, open_task

from .conftest import CONFIG
from .micro import make_scored

CPUS = 2


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    ray.init(num_cpus=CPUS, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def scored(tmp_path: Path) -> Iterator[TaskSpec]:
    open_task.cache_clear()
    yield make_scored(tmp_path, CONFIG.with_overrides({"iterations": 1}))
    open_task.cache_clear()


def assert_same_chains(found: ChainBatch, expected: ChainBatch) -> None:
    np.testing.assert_array_equal(found.scenes.rows, expected.scenes.rows)
    np.testing.assert_array_equal(found.scenes.paired, expected.scenes.paired)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-4)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(found.rewards.reward, expected.rewards.reward, atol=1e-3)


def test_remote_runners_sample_and_learn_what_the_driver_does(scored: TaskSpec) -> None:
    driver = ppo_config(scored).build_algo()
    remote = ppo_config(replace(scored, config=scored.config.with_overrides({"env_runners": CPUS}))).build_algo()
    try:
        assert_same_chains(remote._sample(0), driver._sample(0))
        moved = [PpoTraining(algorithm).train() for algorithm in (driver, remote)]
        assert moved[1]["finetune/reward"] == pytest.approx(moved[0]["finetune/reward"], abs=1e-4)
        assert moved[1]["finetune/scenes"] == scored.config.scenes_per_iteration
        pairs = zip(remote.learned_module().parameters(), driver.learned_module().parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
        assert_same_chains(remote._sample(1), driver._sample(1))  # the runners have the new weights
    finally:
        remote.stop()
        driver.stop()


def make_job(spec: TaskSpec, reported: dict[str, float], actors: list[str]) -> FinetuneJob:
    def validate(chain: DenoisingChain) -> dict[str, float]:
        actors[:] = [name for name in ray.util.list_named_actors() if name.startswith("scorer-")]
        return {"epdms": 0.5, "ep": 1.0}

    return FinetuneJob(spec, spec.policy.parent / "finetune", validate, lambda metrics, step: reported.update(metrics))


def one_task_on_all_cpus() -> int:
    """Waits until every CPU of the session is free."""
    answer: int = ray.get(ray.remote(num_cpus=CPUS)(lambda: 42).remote(), timeout=120)
    return answer


def test_scorer_actors_score_for_every_sampler_and_free_their_cpus(scored: TaskSpec) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    rewards = []
    for runners, actors in ((0, 0), (0, CPUS), (1, 1)):
        config = scored.config.with_overrides({"env_runners": runners, "backend.actors": actors})
        reported: dict[str, float] = {}
        found: list[str] = []
        job = make_job(replace(scored, config=config), reported, found)
        finetune(replace(job, folder=job.folder / f"{runners}-{actors}"))
        assert len(found) == actors
        rewards.append(reported["finetune/reward"])
    assert torch.get_num_threads() == 3, "fine-tuning in one thread ends with fine-tuning"
    torch.set_num_threads(before)
    assert rewards == pytest.approx([rewards[0]] * 3, abs=1e-4)
    assert one_task_on_all_cpus() == 42


def test_a_run_goes_on_with_new_actors(scored: TaskSpec) -> None:
    for iterations in (1, 2):
        config = scored.config.with_overrides({"backend.actors": 1, "iterations": iterations})
        job = make_job(replace(scored, config=config), {}, [])
        finetune(job)
    assert [row["iteration"] for row in read_history(job.folder)] == [0, 1, 2]


def test_actors_end_with_an_error_too(scored: TaskSpec) -> None:
    config = scored.config.with_overrides({"backend.actors": CPUS})
    job = make_job(replace(scored, config=config), {}, [])

    def broken(chain: DenoisingChain) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finetune(replace(job, validate=broken))
    assert one_task_on_all_cpus() == 42


def test_what_does_not_fit_is_said_to_be_waited_for(
    scored: TaskSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = scored.config.with_overrides({"backend.actors": 1})
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 0.0})
    finetune(make_job(replace(scored, config=config), {}, []))
    assert "each of 0 env runners and 1 scorer actors, found 0" in caplog.text
