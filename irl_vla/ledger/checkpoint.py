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
from irl_vla.ledger.files import MANIFEST_NAME, Manifest, atomic_path, file_hash, read_manifest

KIND: Final = "checkpoint"
SCHEMA: Final = 1

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
        fingerprint: of the manifest, which holds the hashes of the weights.
    """

    folder: Path
    stage: str
    state_dicts: Mapping[str, Mapping[str, Tensor]]
    config: Mapping[str, Any]
    provenance: Provenance
    fingerprint: str


def save_checkpoint(
    folder: Path,
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    weights = {}
    for name, state in state_dicts.items():
        path = folder / f"{name}.safetensors"
        # Tied weights share memory, which safetensors refuses: a copy each.
        whole = {
            key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()
        }
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(whole, temporary)
        weights[name] = file_hash(path)
    values = config.model_dump(mode="json")
    extra = {"stage": stage, "weights": weights, "facts": dict(provenance.extra)}
    manifest = Manifest(KIND, SCHEMA, values, provenance.seed, dict(provenance.inputs), extra)
    manifest.write(folder)
    log.info("checkpoint of %s: %s", stage, folder)
    return Checkpoint(folder, stage, state_dicts, values, provenance, manifest.fingerprint)


def load_checkpoint(folder: Path, *stages: str, modules: Collection[str] | None = None) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        stages: any of these may have made it.
        modules: read the weights of these alone; None reads all.

    Raises:
        CheckpointError: if it is missing, not whole, of another stage or schema, or its weights were changed.
    """
    remedy = f"run `irl-vla {_command(stages[0])}`"
    manifest = read_manifest(folder, KIND, SCHEMA, remedy)
    found = manifest.extra["stage"]
    if found not in stages:
        expected = " or ".join(map(repr, stages))
        raise CheckpointError(f"{folder}: expected a checkpoint of stage {expected}, found one of {found!r}; {remedy}")
    states = {
        name: _load_weights(folder / f"{name}.safetensors", expected, remedy)
        for name, expected in manifest.extra["weights"].items()
        if modules is None or name in modules
    }
    provenance = Provenance(manifest.seed, manifest.inputs, manifest.extra["facts"])
    return Checkpoint(folder, found, states, manifest.config, provenance, manifest.fingerprint)


def _command(stage: str) -> str:
    """The command that makes a stage's checkpoints; "pretrain.ego_mlp" is a by-product of "pretrain"."""
    return stage.partition(".")[0].replace("_", "-")


def _load_weights(path: Path, expected: str, remedy: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected weights, found no file; {remedy}")
    found = file_hash(path)
    if found != expected:
        raise CheckpointError(f"{path}: expected weights of hash {expected}, found {found}; the file changed: {remedy}")
    try:
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected safetensors, found: {error}; {remedy}") from error
    return weights
