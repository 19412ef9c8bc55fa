"""The connection to Ray: a local instance sized for one machine, or a running cluster."""

import atexit
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import Field, field_validator

from irl_vla.config import Config
from irl_vla.errors import ClusterError

_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_RAISE_ORIGINAL_MAP_EXCEPTION": "1",  # else the kind of an error in a worker is lost
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at the default of 2 s a reported checkpoint can be lost in a crash
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
#: How often a driver tries to reach the head; Ray's default of 20 attempts of 40 s each looks like a hang.
_ATTEMPTS: Final = "RAY_gcs_server_port_wait_time_s"

log = logging.getLogger(__name__)


class RayConfig(Config):
    """How to reach Ray.

    Attributes:
        address: "host:6379" of a cluster that this machine belongs to, or "auto" for the one that runs here; None
            starts a local instance and, inside a submitted job, joins the cluster that runs the job.
        cpus: logical CPUs of the local instance; None takes all.
        object_store_mb: shared memory of the local instance.
        connect_timeout_s: patience with a cluster whose port does not answer.
    """

    address: str | None = None
    cpus: int | None = Field(default=None, gt=0)
    object_store_mb: int = Field(default=400, ge=80)
    connect_timeout_s: int = Field(default=30, gt=0)

    @field_validator("address")
    @classmethod
    def _joinable(cls, address: str | None) -> str | None:
        if address is not None and not _is_joinable(address):
            raise ValueError(
                'expected "auto" or the host:port of a Ray head, e.g. 10.0.0.1:6379; from outside a cluster submit the '
                "stage with cluster/submit.sh"
            )
        return address


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connects to Ray for the duration of a stage; an existing connection is used and left as it is.

    What workers log is shown while the stage runs (:mod:`irl_vla.stages.worker_log`).

    Raises:
        ClusterError: if the cluster cannot be reached in time.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    from irl_vla.stages.worker_log import stage_messages, worker_messages

    if ray.is_initialized():
        with stage_messages():
            yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        if address is None:
            _start(config)
        else:
            _join(address, config.connect_timeout_s)
    except (OSError, RuntimeError, ValueError) as error:
        where = address or "a local instance"
        remedy = "see the message above"
        if address:
            remedy = "check ray.address and the token (RAY_AUTH_TOKEN_PATH)"
        elif isinstance(error, OSError):
            remedy = "set TMPDIR to a folder with a short path, on a disk with space, where this user may write"
        raise ClusterError(f"Ray at {where}: {error}; {remedy}") from error
    log.info("Ray: %s, %s", address or "local", ray.cluster_resources())
    try:
        with worker_messages():
            yield
    finally:
        ray.shutdown()


def _start(config: RayConfig) -> None:
    _keep_token()
    _init(
        num_cpus=config.cpus,
        object_store_memory=config.object_store_mb * 1024 * 1024,
        include_dashboard=False,
        runtime_env={},
    )


def _init(runtime_env: Mapping[str, Any], **arguments: Any) -> None:
    """``ray.init`` with what every connection has: quiet, and workers that send their messages to this process."""
    import ray
    from ray import cloudpickle

    from irl_vla.stages import worker_log

    # By value: a worker that starts does not know yet where the project lies.
    cloudpickle.register_pickle_by_value(worker_log)
    try:
        ray.init(
            logging_level=logging.WARNING,
            log_to_driver=False,
            runtime_env={**runtime_env, "worker_process_setup_hook": worker_log.install},
            **arguments,
        )
    finally:
        cloudpickle.unregister_pickle_by_value(worker_log)


def _keep_token() -> None:
    """Lets a local instance keep its token elsewhere if the home folder takes no file (read-only, full, absent)."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"token")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_private_token())
        log.info("Ray keeps its token in a temporary folder: %s", error)


@cache
def _private_token() -> Path:
    """A token for the life of this process; Ray reads it once and then knows it by heart."""
    folder = Path(tempfile.mkdtemp(prefix="irl-vla-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "auth_token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    return path


def _join(address: str, timeout_s: float) -> None:
    if not _is_joinable(address):
        raise ClusterError(
            f"RAY_ADDRESS={address}: expected the host:port of a Ray head; unset it to run locally, or submit the "
            "stage with cluster/submit.sh"
        )
    if address != "auto":
        _probe_address(address, timeout_s)
    # Daemons of a running cluster do not inherit this process's environment.
    environment = {name: os.environ[name] for name in _ENVIRONMENT}
    attempts = os.environ.get(_ATTEMPTS)
    os.environ[_ATTEMPTS] = attempts or "1"
    try:
        _init(address=address, runtime_env={"env_vars": environment})
    finally:
        if attempts is None:  # would cut short the start of a local instance
            del os.environ[_ATTEMPTS]


def _probe_address(address: str, timeout_s: float) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster at {address}: {error} (ray.connect_timeout_s={timeout_s}); start the head, correct the "
            "address, or unset ray.address and RAY_ADDRESS to run locally"
        ) from error


def _is_joinable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return address == "auto" or ("/" not in address and bool(host) and port.isdecimal() and int(port) < 65536)
