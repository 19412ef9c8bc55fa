"""Which world a folder holds, and whether another one may take its place."""

import json
import logging
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from irl_vla.dataset.fingerprint import GENERATED_KIND, DatasetFingerprint, generator_identity
from irl_vla.dataset.splits import LAYOUTS_NAME
from irl_vla.errors import CheckpointError
from irl_vla.ledger.files import MANIFEST_NAME, Manifest, read_manifest, write_text
from irl_vla.ledger.tracking import flatten
from irl_vla.world.config import WorldConfig
from irl_vla.world.plan import SPLITS
from irl_vla.world.second_stage_files import SECOND_STAGE

#: Raised by every change of this package that gives other drives, roads, images or sweeps from the same settings.
GENERATOR_VERSION: Final = 1
#: Of the manifests of the world and of its follow-up scenes.
SCHEMA: Final = 2
#: Written first: what the unfinished folder is going to be.
BEGUN_NAME: Final = "generation.json"
REMEDY: Final = "generate into another folder (data.root), or set generate.replace=true to remove this one"
#: All that a generated data set consists of: what marks it as whole comes first, what says whose it is last.
_WRITTEN: Final = (
    MANIFEST_NAME,
    "selection.json",
    LAYOUTS_NAME,
    "navsim_logs",
    "sensor_blobs",
    "train_test_split",
    SECOND_STAGE,
    "maps",
    BEGUN_NAME,
)

log = logging.getLogger(__name__)


def world_manifest(config: WorldConfig, seed: int) -> Manifest:
    """What the finished data set says of itself: settings, seed, and the versions of generator and package."""
    values = config.model_dump(mode="json", exclude={"workers", "two_stage"})
    facts = {"splits": {split: values[split] for split in SPLITS}, "package": version("irl-vla")}
    return Manifest(GENERATED_KIND, SCHEMA, values, seed, inputs={"generator": str(GENERATOR_VERSION)}, extra=facts)


def begin(folder: Path, manifest: Manifest) -> None:
    """Notes whose the folder is before any work, so that a resumed run cannot mix two data sets."""
    write_text(folder / BEGUN_NAME, json.dumps({"world": generator_identity(manifest), "seed": manifest.seed}))


def will_generate(root: Path, manifest: Manifest, replace: bool) -> bool:
    """True if generating writes logs, because the data set is not there yet, not whole, or to be replaced.

    Raises:
        CheckpointError: if another data set is there that is not to be replaced.
    """
    return (replace and is_other(root, manifest)) or not is_finished(root, manifest)


def require_replaceable(recorded: Mapping[str, DatasetFingerprint], planned: Manifest, replace: bool) -> None:
    """Refuses to generate a data set that would leave results behind which were made from another one.

    Ask it where :func:`will_generate` says so: a data set that is whole stays as it is.

    Args:
        recorded: what was made ("seed-0/pretrain"), with the fingerprint of the data that it was made from.
        planned: manifest of the world to be generated.
        replace: whether the user asked for it; what is left behind is then named in a warning.

    Raises:
        CheckpointError: if results are of another world: other settings, seed or generator version, or recorded data.
    """
    wanted = generator_identity(planned)
    left = sorted(name for name, fingerprint in recorded.items() if fingerprint.generator != wanted)
    if not left:
        return
    shown = f"{', '.join(left[:5])}{', ...' if left[5:] else ''}"
    if replace:
        log.warning("%d results were made from other data and fit no longer: %s; delete them", len(left), shown)
        return
    raise CheckpointError(
        f"expected to generate the data set that the results of this experiment were made from, found {len(left)} of "
        f"another one (other settings, seed or generator version): {shown}; choose another name= and data.root, or "
        "set generate.replace=true to give these results up"
    )


def is_other(folder: Path, manifest: Manifest) -> bool:
    """True if a folder holds generated data, whole or not, that is not what a manifest describes."""
    begun = folder / BEGUN_NAME
    return begun.is_file() and json.loads(begun.read_text()).get("world") != generator_identity(manifest)


def is_finished(folder: Path, manifest: Manifest) -> bool:
    """True if the very same data is there and whole, or the same world as another generator version made it.

    Raises:
        CheckpointError: if another one is there, whole or not.
    """
    wanted = generator_identity(manifest)
    if (folder / MANIFEST_NAME).is_file():
        found = read_manifest(folder, manifest.kind, manifest.schema, REMEDY)
        if generator_identity(found) != wanted:
            _require_same_settings(folder, found, manifest)
        return True
    begun = folder / BEGUN_NAME
    if not begun.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder}: expected an empty or new folder, found data that was not generated here; choose "
            "another data.root, or set generate: null to read what is there"
        )
    if begun.is_file() and (of := json.loads(begun.read_text()).get("world")) != wanted:
        raise CheckpointError(f"{begun}: expected {wanted}, found {of}, an unfinished other data set; {REMEDY}")
    return False


def _require_same_settings(folder: Path, found: Manifest, wanted: Manifest) -> None:
    """Says in what a finished data set differs; nothing but the generator's version may."""
    before, now = (flatten({**manifest.config, "seed": manifest.seed}) for manifest in (found, wanted))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed or wanted.kind != GENERATED_KIND:
        shown = "; ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} asked for" for key in changed[:5])
        raise CheckpointError(
            f"{folder}: expected the data set of this configuration, found one of other settings ({len(changed)} "
            f"differ: {shown or 'another generator version made the logs'}); {REMEDY}"
        )
    log.warning(
        "%s: already generated, with these settings, by generator version %s of irl-vla %s; this is version %d, which "
        "would give other scenes: they are used as they are, generate.replace=true makes them anew",
        folder,
        found.inputs.get("generator"),
        found.extra.get("package"),
        GENERATOR_VERSION,
    )


def remove_world(root: Path) -> None:
    """Removes a generated data set: what marks it as whole first, so that a half removed one is not taken for whole.

    Raises:
        CheckpointError: if the folder holds anything else; then nothing is removed.
    """
    foreign = sorted({path.name for path in root.iterdir()} - {*_WRITTEN})
    if foreign:
        raise CheckpointError(
            f"{root}: expected a generated data set alone, found {', '.join(foreign[:5])} beside it; move that away "
            "before the data set is replaced, or choose another data.root"
        )
    for name in _WRITTEN:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    log.info("%s: removed the data set that was there", root)
