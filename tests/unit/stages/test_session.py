"""The connection to Ray refuses what cannot work before it tries, and never ends a connection that it did not open."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray

from irl_vla.config import validated
from irl_vla.errors import ClusterError, ConfigError
from irl_vla.stages import session, worker_log
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
    monkeypatch.setattr(worker_log, "worker_messages", nullcontext)
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
    monkeypatch.setattr(worker_log, "stage_messages", nullcontext)
    with ray_session(RayConfig(address="127.0.0.1:1")):
        pass
    assert closed == []


def test_a_temporary_folder_that_ray_cannot_use_is_named(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, object]]
) -> None:
    def refuse(**arguments: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /far/away/ray/session")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"a local instance: .*107 bytes.*TMPDIR"), ray_session(RayConfig()):
        pass


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


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A home folder without a token, and no token in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    session._private_token.cache_clear()


def test_a_home_folder_that_can_be_written_is_rays_own_business(home: Path, calls: list[dict[str, object]]) -> None:
    with ray_session(RayConfig()):
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("name", ["file/home", "file"])
def test_without_a_home_folder_the_token_lies_elsewhere(
    home: Path, name: str, calls: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / name))
    with ray_session(RayConfig()):
        path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == 64
    with ray_session(RayConfig()):
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]) == path, "Ray reads a token once a process"


def test_a_token_that_was_given_is_kept(home: Path, calls: list[dict[str, object]]) -> None:
    (home / "file").touch()
    os.environ.update(HOME=str(home / "file"), RAY_AUTH_TOKEN_PATH="/elsewhere")
    with ray_session(RayConfig()):
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/elsewhere"


HOMELESS = """
import os, ray
from irl_vla.stages.session import RayConfig, ray_session

with ray_session(RayConfig(cpus=1, object_store_mb=80)):
    print(ray.get(ray.remote(lambda: 3).remote()), os.environ["RAY_AUTH_TOKEN_PATH"])
"""


def test_ray_starts_without_a_home_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS],
        env={**own, "HOME": str(tmp_path / "file" / "home")},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer, token = done.stdout.split()
    assert answer == "3"
    assert "Traceback" not in done.stderr
    assert not Path(token).exists(), "a token lives as long as its process"
