"""The connection to Ray refuses what cannot work before it tries, and never ends a connection that it did not open."""

import os
import socket
from collections.abc import Iterator

import pytest
import ray

from irl_vla.config import validated
from irl_vla.errors import ClusterError, ConfigError
from irl_vla.stages import session
from irl_vla.stages.session import RayConfig, ray_session


@pytest.fixture(autouse=True)
def untouched_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`ray_session` sets variables for the life of a process; a test must not."""
    before = dict(os.environ)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Arguments of each `ray.init`; nothing is started."""
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "init", lambda **arguments: seen.append(arguments))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return seen


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head:6379", "[::1]:6379", None])
def test_addresses_of_a_head_are_taken(address: str | None) -> None:
    assert RayConfig(address=address).address == address


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "ray://head:10001", "head", "head:", ":6379", "head:port", "head:70000"]
)
def test_other_addresses_name_the_remedy(address: str) -> None:
    with pytest.raises(ConfigError, match=r"host:port of a Ray head.*cluster/submit\.sh"):
        validated(RayConfig, {"address": address}, source="test")


def test_an_absent_cluster_is_named_before_ray_tries(calls: list[dict[str, object]]) -> None:
    address = f"127.0.0.1:{closed_port()}"
    message = rf"no Ray cluster at {address}: .*ray\.connect_timeout_s"
    with pytest.raises(ClusterError, match=message), ray_session(RayConfig(address=address)):
        pass
    assert calls == []


def test_the_address_of_the_job_server_is_no_cluster(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, object]]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    message = r"RAY_ADDRESS=http://127\.0\.0\.1:8265: expected the host:port"
    with pytest.raises(ClusterError, match=message), ray_session(RayConfig()):
        pass
    assert calls == []


def test_a_job_joins_the_cluster_that_runs_it(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, object]], listening: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", listening)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with ray_session(RayConfig(cpus=1)):
        pass
    (arguments,) = calls
    assert arguments["address"] == listening
    assert "num_cpus" not in arguments  # sizes belong to a local instance
    assert arguments["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"  # the user's choice reaches the workers
    assert session._ATTEMPTS not in os.environ


def test_without_an_address_a_local_instance_starts(calls: list[dict[str, object]]) -> None:
    with ray_session(RayConfig(cpus=2, object_store_mb=80)):
        pass
    (arguments,) = calls
    assert "address" not in arguments
    assert (arguments["num_cpus"], arguments["object_store_memory"]) == (2, 80 * 1024 * 1024)


def test_an_open_connection_is_used_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **arguments: pytest.fail("connected twice"))
    monkeypatch.setattr(ray, "shutdown", lambda: closed.append(True))
    with ray_session(RayConfig(address="127.0.0.1:1")):
        pass
    assert closed == []


def test_trouble_of_ray_becomes_a_cluster_error(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, object]], listening: str
) -> None:
    def refuse(**arguments: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    message = r"Failed to connect.*RAY_AUTH_TOKEN_PATH"
    with pytest.raises(ClusterError, match=message), ray_session(RayConfig(address=listening)):
        pass
    assert session._ATTEMPTS not in os.environ
