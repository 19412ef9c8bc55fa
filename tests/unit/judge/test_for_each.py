"""The same work here, in processes and on Ray: equal results, errors as they are, lost workers named."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from irl_vla.errors import ClusterError, SceneError
from irl_vla.judge.for_each import ForEach, in_processes, on_ray, one_by_one
from irl_vla.stages.session import RayConfig, ray_session

ITEMS = {f"log {number}": number for number in range(7)}
LOCAL = {"here": one_by_one, "one process": in_processes(1), "two processes": in_processes(2)}


def power(exponent: int, number: int) -> int:
    return int(number**exponent)


def fail_at_three(number: int) -> int:
    if number == 3:
        raise SceneError("t3: expected a route, found none")
    return number


def die(number: int) -> int:
    os._exit(9)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with ray_session(RayConfig(cpus=1, object_store_mb=80)):
        yield


@pytest.mark.parametrize("where", LOCAL)
def test_every_item_has_its_result(where: str) -> None:
    for_each: ForEach = LOCAL[where]
    assert dict(for_each("square", partial(power, 2), ITEMS)) == {name: number**2 for name, number in ITEMS.items()}
    assert dict(for_each("square", partial(power, 2), {})) == {}
    with pytest.raises(SceneError, match=r"^t3: expected a route, found none$"):
        list(for_each("fail", fail_at_three, ITEMS))


@pytest.mark.parametrize("at_once", [None, 1, 3])
def test_ray_gives_the_same(ray_here: None, at_once: int | None) -> None:
    for_each: ForEach = partial(on_ray, at_once=at_once)
    assert dict(for_each("square", partial(power, 2), ITEMS)) == {name: number**2 for name, number in ITEMS.items()}
    assert dict(for_each("square", partial(power, 2), {})) == {}
    with pytest.raises(SceneError, match=r"^t3: expected a route, found none$"):
        list(for_each("fail", fail_at_three, ITEMS))


def test_a_process_that_is_killed_is_named() -> None:
    with pytest.raises(ClusterError, match=r"^deaths: expected 2 processes to work to the end, one was killed"):
        list(in_processes(2)("deaths", die, ITEMS))


def test_without_ray_only_work_on_ray_fails() -> None:
    """Importing, and work in processes, must not load Ray: the scorer is installed without it."""
    code = "import sys; from irl_vla.judge import prepare, one_stage, two_stage; assert 'ray' not in sys.modules"
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
