"""Experiment tracking in MLflow: one parent run a pipeline, a child run a stage or trial.

The store is an SQLite file beside the results unless a server is configured. Runs are addressed by id through a
client, so nothing depends on MLflow's global state and several processes may log at once.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from irl_vla.config import Config
from irl_vla.errors import ConfigError, IrlVlaError
from irl_vla.ledger.artefact import flatten
from irl_vla.ledger.storage import Location

_PARENT_FILE = "mlflow_parent.txt"
_PARENT_TAG = "mlflow.parentRunId"
_STAGE_TAG = "irl_vla.stage"
_METRICS_PER_CALL, _PARAMS_PER_CALL, _PARAM_LENGTH = 1000, 100, 6000

log = logging.getLogger(__name__)


class TrackingConfig(Config):
    """Where runs are recorded.

    Attributes:
        enabled: False records nothing.
        uri: MLflow tracking server; None means an SQLite file in the experiment's folder.
        experiment: name of the MLflow experiment.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "irl-vla"


@dataclass(frozen=True)
class StageRun:
    """One MLflow run to write to; without a client every call does nothing (tracking switched off)."""

    run_id: str = ""
    client: Any = field(default=None, repr=False)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs finite numbers under ``stage/quantity`` names; a non-finite one is reported, not stored."""
        if self.client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        unfit = sorted(name for name, value in values.items() if not isfinite(value))
        if unfit:
            log.warning("step %d: not finite, not logged: %s", step, ", ".join(unfit))
        rows = [Metric(name, float(value), now, step) for name, value in values.items() if isfinite(value)]
        for start in range(0, len(rows), _METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics=rows[start : start + _METRICS_PER_CALL])

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs a nested configuration with dotted keys; keys that the run already has keep their first value."""
        if self.client is None:
            return
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        rows = [Param(k, str(v)[:_PARAM_LENGTH]) for k, v in flatten(values).items() if k not in known]
        for start in range(0, len(rows), _PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=rows[start : start + _PARAMS_PER_CALL])

    def artifact(self, place: Location | Path, folder: str | None = None) -> None:
        """Uploads a file or a folder."""
        if self.client is None:
            return
        path = Location.of(place).local()
        upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        upload(self.run_id, str(path), artifact_path=folder)

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags."""
        if self.client is not None:
            for name, value in values.items():
                self.client.set_tag(self.run_id, name, value)


@contextmanager
def stage_run(
    config: TrackingConfig, folder: Location, name: str, stage: str, params: Mapping[str, Any]
) -> Iterator[StageRun]:
    """Opens the child run of a stage below the pipeline's parent run; a run that did not finish is taken up again.

    Args:
        folder: the experiment's folder; holds the SQLite store, the artifacts and the id of the parent run.
        name: the pipeline's name, title of the parent run.
        stage: title of the child run.
    """
    if not config.enabled:
        yield StageRun()
        return
    client, experiment_id = open_store(config, folder)
    parent = _parent(client, experiment_id, folder, name)
    run = StageRun(_child(client, experiment_id, parent, stage), client)
    run.params(params)
    try:
        yield run
    except KeyboardInterrupt:
        client.set_terminated(run.run_id, "KILLED")
        raise
    except BaseException:
        client.set_terminated(run.run_id, "FAILED")
        raise
    client.set_terminated(run.run_id, "FINISHED")


def open_store(config: TrackingConfig, folder: Location) -> tuple[Any, str]:
    """Returns a client and the experiment's id; creates an SQLite store on first use (call it in the driver first).

    Raises:
        IrlVlaError: if the tracking server does not answer.
        ConfigError: if results lie in an object store, which cannot hold an SQLite file, and no server is named.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if config.uri is None and not folder.is_local:
        raise ConfigError(
            f"runs are recorded beside the results by default, which is not possible at {folder}: name a server or a "
            "local file by tracking.uri (e.g. sqlite:////home/me/mlflow.db), or set tracking.enabled=false"
        )
    if config.uri is None:
        folder.path.mkdir(parents=True, exist_ok=True)
    uri = config.uri or f"sqlite:///{folder.path / 'mlflow.db'}"
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is not None:
            return client, experiment.experiment_id
        place = None if config.uri else (folder.path / "mlflow").as_uri()
        return client, client.create_experiment(config.experiment, artifact_location=place)
    except MlflowException as error:
        raise IrlVlaError(f"tracking store {uri}: {error}; check tracking.uri or set tracking.enabled=false") from error


def child_runs(client: Any, experiment_id: str, parent: str) -> Sequence[Any]:
    """The child runs of a parent run, newest first."""
    query = f"tags.`{_PARENT_TAG}` = '{parent}'"
    runs: Sequence[Any] = client.search_runs([experiment_id], query, order_by=["attributes.start_time DESC"])
    return runs


def _parent(client: Any, experiment_id: str, folder: Location, name: str) -> str:
    path = folder / _PARENT_FILE
    if path.exists():
        known = path.read_text().strip()
        if client.search_runs([experiment_id], f"attributes.run_id = '{known}'"):
            return known
    run_id: str = client.create_run(experiment_id, run_name=name).info.run_id
    client.set_terminated(run_id, "FINISHED")  # a title for its children; it has no work of its own to finish
    path.write_text(run_id)
    return run_id


def _child(client: Any, experiment_id: str, parent: str, stage: str) -> str:
    for run in child_runs(client, experiment_id, parent):
        if run.data.tags.get(_STAGE_TAG) == stage and run.info.status != "FINISHED":
            client.update_run(run.info.run_id, status="RUNNING")
            unfinished: str = run.info.run_id
            return unfinished
    run_id: str = client.create_run(
        experiment_id, run_name=stage, tags={_PARENT_TAG: parent, _STAGE_TAG: stage}
    ).info.run_id
    return run_id
