"""What workers log reaches the user once, with its count, whatever kind of worker says it."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from irl_vla.stages import worker_log
from irl_vla.stages.session import RayConfig, ray_session
from irl_vla.stages.worker_log import MOST, Collector, Message, WorkerHandler

WARNING = Message("irl_vla.judge", logging.WARNING, "3 scenes left out")


def test_a_message_is_fresh_once_and_counted_by_worker() -> None:
    collector = Collector()
    for worker in ("a", "b", "a"):
        collector.add(WARNING, worker)
    assert collector.take() == [WARNING]
    assert collector.take() == []
    assert collector.settle() == ([], [(WARNING, 3, 2)], 0)
    collector.add(WARNING, "a")
    assert collector.settle() == ([WARNING], [(WARNING, 1, 1)], 0), "a new stage hears it anew"


def test_a_flood_of_different_messages_is_cut_off_and_counted() -> None:
    collector = Collector()
    for number in range(MOST + 7):
        collector.add(WARNING._replace(text=f"scene {number}"), "a")
    collector.add(WARNING._replace(text="scene 0"), "a")
    fresh, told, left_out = collector.settle()
    assert (len(fresh), len(told), left_out) == (MOST, MOST, 7)
    assert told[0][1] == 2


def test_trouble_with_the_collector_does_not_reach_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ValueError(f"no actor {name}")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", absent)
    logger = logging.Logger("irl_vla.x")
    logger.addHandler(WorkerHandler())
    logger.warning("lost")
    assert "no actor" in capsys.readouterr().err


def speak(number: int) -> int:
    logging.getLogger("irl_vla.judge").warning("%d of %d scenes left out", 2, 9)
    logging.getLogger("irl_vla.judge").info("going on from step 3")
    logging.getLogger("irl_vla.judge").debug("a detail")
    logging.getLogger("elsewhere").warning("foreign")
    return number


class Speaker:
    """A worker of Ray Data, or an actor."""

    def __call__(self, batch: object) -> object:
        logging.getLogger("irl_vla.reward").warning("said in an actor")
        return batch


def train(config: dict[str, object]) -> None:
    logging.getLogger("irl_vla.train").warning("said in training, rank %d", ray.train.get_context().get_world_rank())


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.pop("RAY_ADDRESS", None)
    with ray_session(RayConfig(cpus=2, object_store_mb=100)):
        yield
    os.environ.clear()
    os.environ.update(before)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("irl_vla")]


def test_tasks_are_heard_while_they_run_and_counted_at_the_end(session: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ray_session(RayConfig()):
        ray.get([ray.remote(speak).remote(number) for number in range(5)])
        deadline = time.monotonic() + 60
        while "2 of 9 scenes left out" not in messages(caplog):
            assert time.monotonic() < deadline, "not shown before the stage's end"
            time.sleep(0.05)
        assert not any("seen" in message for message in messages(caplog))
    shown = messages(caplog)
    assert shown.count("2 of 9 scenes left out") == 1
    assert shown.count("going on from step 3") == 1
    (counted,) = [message for message in shown if "seen" in message]
    assert counted.startswith("2 of 9 scenes left out (seen 5 times on ")
    assert not any("detail" in message or "foreign" in message for message in shown)
    caplog.clear()
    with ray_session(RayConfig()):
        ray.get(ray.remote(speak).remote(0))
    assert messages(caplog).count("2 of 9 scenes left out") == 1, "a stage of its own"


def test_actors_of_ray_data_are_heard(session: None, caplog: pytest.LogCaptureFixture) -> None:
    import ray.data

    caplog.set_level(logging.INFO)
    with ray_session(RayConfig()):
        rows = ray.data.from_items([{"row": row} for row in range(3)], override_num_blocks=3)
        pool = ray.data.ActorPoolStrategy(size=1)
        assert rows.map_batches(Speaker, batch_size=1, compute=pool).count() == 3
    assert "said in an actor (seen 3 times on 1 worker)" in messages(caplog)


def test_actors_that_an_actor_starts_are_heard(session: None, caplog: pytest.LogCaptureFixture) -> None:
    """As the environment runners of RLlib, which the algorithm starts."""

    def start(number: int) -> int:
        runner = ray.remote(num_cpus=0)(Speaker).remote()
        answer: int = ray.get(runner.__call__.remote(number))
        return answer

    with ray_session(RayConfig()):
        assert ray.get(ray.remote(num_cpus=0)(start).remote(4)) == 4
    assert messages(caplog) == ["said in an actor"]


def search(settings: dict[str, int]) -> None:
    from ray import tune

    logging.getLogger("irl_vla.rl").warning("said in trial %d", settings["number"])
    tune.report({"score": 1.0})


@pytest.mark.slow
def test_trials_of_ray_tune_are_heard(session: None, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from ray import tune

    with ray_session(RayConfig()):
        tune.Tuner(
            tune.with_resources(search, {"CPU": 1}),
            param_space={"number": tune.grid_search([1, 2])},
            run_config=tune.RunConfig(name="x", storage_path=str(tmp_path), verbose=0),
        ).fit()
    assert {"said in trial 1", "said in trial 2"} <= set(messages(caplog))


@pytest.mark.slow
def test_workers_of_ray_train_are_heard(session: None, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    caplog.set_level(logging.INFO)
    with ray_session(RayConfig()):
        TorchTrainer(
            train,
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(name="x", storage_path=str(tmp_path)),
        ).fit()
    assert {f"said in training, rank {rank}" for rank in (0, 1)} <= set(messages(caplog))


def test_a_foreign_connection_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ValueError(f"no actor {name}")

    monkeypatch.setattr(ray, "get_actor", absent)
    with worker_log.stage_messages():
        pass
