"""The connection to Ray: a local instance sized for one machine, or a running cluster."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from irl_vla.config import Config
from irl_vla.errors import ClusterError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at the default of 2 s a reported checkpoint can be lost in a crash
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

log = logging.getLogger(__name__)


class RayConfig(Config):
    """How to reach Ray.

    Attributes:
        address: a cluster ("auto", "host:6379", "ray://host:10001"); None starts a local instance and, inside a
            submitted job, joins the cluster that runs the job.
        cpus: logical CPUs of the local instance; None takes all.
        object_store_mb: shared memory of the local instance.
        connect_timeout_s: patience with a cluster that does not answer.
    """

    address: str | None = None
    cpus: int | None = Field(default=None, gt=0)
    object_store_mb: int = Field(default=400, ge=80)
    connect_timeout_s: int = Field(default=30, gt=0)


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connects to Ray for the duration of a stage; an existing connection is used and left as it is.

    Raises:
        ClusterError: if the cluster cannot be reached in time.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        if address is None:
            ray.init(
                num_cpus=config.cpus,
                object_store_memory=config.object_store_mb * 1024 * 1024,
                include_dashboard=False,
                logging_level=logging.WARNING,
                log_to_driver=False,
            )
        else:
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(config.connect_timeout_s))
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        where = address or "a local instance"
        raise ClusterError(f"Ray at {where}: {error}; check ray.address, or unset it to run locally") from error
    log.info("Ray: %s, %s", address or "local", ray.cluster_resources())
    try:
        yield
    finally:
        ray.shutdown()
