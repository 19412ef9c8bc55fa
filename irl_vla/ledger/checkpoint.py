"""Checkpoints: safetensors weights, the configuration and the origin of a stage's model, one format for all stages."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from irl_vla.config import Config
from irl_vla.errors import CheckpointError
from irl_vla.ledger.artefact import Artefact, Identity, require_record
from irl_vla.ledger.files import file_hash
from irl_vla.ledger.storage import RECORD_NAME, Location

KIND: Final = "checkpoint"
SCHEMA: Final = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint comes from.

    Attributes:
        inputs: name to hash or fingerprint of what it was trained on.
        extra: JSON-like facts for readers, e.g. metrics.
    """

    seed: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        state_dicts: module name to its weights, on the CPU.
        config: resolved configuration of the model.
        fingerprint: of its identity, which holds the hashes of the weights.
    """

    folder: Location
    stage: str
    state_dicts: Mapping[str, Mapping[str, Tensor]]
    config: Mapping[str, Any]
    provenance: Provenance
    fingerprint: str


def save_checkpoint(
    folder: Location | Path,
    stage: str,
    state_dicts: Mapping[str, Mapping[str, Tensor]],
    config: Config,
    provenance: Provenance,
) -> Checkpoint:
    """Writes a checkpoint; one that was there is replaced, and the folder counts as whole only at the end.

    Args:
        stage: what made it, e.g. "pretrain"; readers ask for it.
        state_dicts: module name to weights; a file each.
        config: what a reader needs to build the modules.
    """
    place = Location.of(folder)
    (place / RECORD_NAME).delete()
    weights = {name: _write_weights(place / f"{name}.safetensors", state) for name, state in state_dicts.items()}
    values = config.model_dump(mode="json")
    settings = {"stage": stage, "model": values, "weights": weights}
    identity = Identity(KIND, SCHEMA, settings, provenance.inputs, {"seed": provenance.seed})
    record = Artefact(place, identity, _remedy(stage)).finish(provenance.extra)
    log.info("checkpoint of %s: %s", stage, place)
    return Checkpoint(place, stage, state_dicts, values, provenance, record.fingerprint)


def load_checkpoint(folder: Location | Path, *stages: str, modules: Collection[str] | None = None) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        stages: any of these may have made it.
        modules: read the weights of these alone; None reads all.

    Raises:
        CheckpointError: if it is missing, not whole, of another stage or schema, or its weights were changed.
    """
    place, remedy = Location.of(folder), _remedy(stages[0])
    record = require_record(place, KIND, SCHEMA, remedy)
    settings = record.identity.settings
    found = settings["stage"]
    if found not in stages:
        expected = " or ".join(map(repr, stages))
        raise CheckpointError(f"{place}: expected a checkpoint of stage {expected}, found one of {found!r}; {remedy}")
    states = {
        name: _load_weights(place / f"{name}.safetensors", expected, remedy)
        for name, expected in settings["weights"].items()
        if modules is None or name in modules
    }
    provenance = Provenance(record.identity.seeds["seed"], record.identity.inputs, record.facts)
    return Checkpoint(place, found, states, settings["model"], provenance, record.fingerprint)


def checkpoint_fingerprint(folder: Location | Path) -> str:
    """Of a finished checkpoint, without reading its weights.

    Raises:
        CheckpointError: if it is missing, not whole or of another schema.
    """
    return require_record(Location.of(folder), KIND, SCHEMA, "run the stage that makes it").fingerprint


def _remedy(stage: str) -> str:
    """The command that makes a stage's checkpoints; "pretrain.ego_mlp" is a by-product of "pretrain"."""
    return f"run `irl-vla {stage.partition('.')[0].replace('_', '-')}`"


def _write_weights(place: Location, state: Mapping[str, Tensor]) -> str:
    """Writes one module's weights; returns the hash of the file."""
    # Tied weights share memory, which safetensors refuses: a copy each.
    whole = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    with place.writing() as path:
        safetensors.torch.save_file(whole, path)
        return file_hash(path)


def _load_weights(place: Location, expected: str, remedy: str) -> dict[str, Tensor]:
    if not place.exists():
        raise CheckpointError(f"{place}: expected weights, found no file; {remedy}")
    path = place.local()
    found = file_hash(path)
    if found != expected:
        raise CheckpointError(
            f"{place}: expected weights of hash {expected}, found {found}; the file changed: {remedy}"
        )
    try:
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{place}: expected safetensors, found: {error}; {remedy}") from error
    return weights
