"""Which world a folder holds, and whether another one may take its place."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from irl_vla.dataset.fingerprint import GENERATED_KIND, DatasetFingerprint
from irl_vla.dataset.splits import LAYOUTS_NAME
from irl_vla.errors import CheckpointError
from irl_vla.ledger.artefact import Artefact, Identity, differences, find_record
from irl_vla.ledger.owner import OWNER_NAME
from irl_vla.ledger.storage import RECORD_NAME, Location
from irl_vla.world.config import WorldConfig
from irl_vla.world.second_stage_files import SECOND_STAGE

#: Raised by every change of this package that gives other drives, roads, images or sweeps from the same settings.
GENERATOR_VERSION: Final = 1
#: Of the records of the world and of its follow-up scenes.
SCHEMA: Final = 3
_SECOND_STAGE_KIND: Final = "second_stage"
_VERSION: Final = "generator"
REMEDY: Final = "generate into another folder (data.root), or set generate.replace=true to remove this one"
#: All that a generated data set consists of, in the order in which it is removed: what says whose it is comes last.
_WRITTEN: Final = (
    "selection.json",
    LAYOUTS_NAME,
    "navsim_logs",
    "sensor_blobs",
    "train_test_split",
    SECOND_STAGE,
    "maps",
    RECORD_NAME,
)

log = logging.getLogger(__name__)


def world_artefact(config: WorldConfig, root: Path, seed: int) -> Artefact:
    """The data set that a configuration, a seed and this version of the generator make."""
    settings = config.decisive()
    del settings["two_stage"]  # has a record of its own: it may be added later
    inputs = {_VERSION: str(GENERATOR_VERSION)}
    return Artefact(Location.of(root), Identity(GENERATED_KIND, SCHEMA, settings, inputs, {"seed": seed}), REMEDY)


def second_stage_artefact(config: WorldConfig, folder: Path, seed: int, world: str) -> Artefact:
    """The follow-up scenes of a world, known by its fingerprint."""
    settings = {"two_stage": None if config.two_stage is None else config.two_stage.decisive()}
    identity = Identity(_SECOND_STAGE_KIND, SCHEMA, settings, {"world": world}, {"seed": seed})
    return Artefact(Location.of(folder), identity, REMEDY)


def will_generate(world: Artefact, replace: bool) -> bool:
    """True if generating writes logs, because the data set is not there yet, not whole, or to be replaced.

    Raises:
        CheckpointError: if another data set is there that is not to be replaced.
    """
    return (replace and is_other(world)) or not is_finished(world)


def require_replaceable(recorded: Mapping[str, DatasetFingerprint], planned: Artefact, replace: bool) -> None:
    """Refuses to generate a data set that would leave results behind which were made from another one.

    Ask it where :func:`will_generate` says so: a data set that is whole stays as it is.

    Args:
        recorded: what was made ("seed-0/pretrain"), with the fingerprint of the data that it was made from.
        planned: the world to be generated.
        replace: whether the user asked for it; what is left behind is then named in a warning.

    Raises:
        CheckpointError: if results are of another world: other settings, seed or generator version, or recorded data.
    """
    left = sorted(name for name, fingerprint in recorded.items() if fingerprint.generator != planned.fingerprint)
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


def is_other(wanted: Artefact) -> bool:
    """True if a folder holds generated data, whole or not, that is not what is wanted."""
    found = find_record(wanted.folder)
    return found is not None and found.fingerprint != wanted.fingerprint


def is_finished(wanted: Artefact) -> bool:
    """True if the very same data is there and whole, or the same world as another generator version made it.

    Raises:
        CheckpointError: if another one is there, whole or not.
    """
    found = find_record(wanted.folder)
    if found is None:
        if set(wanted.folder.children()) - {OWNER_NAME}:
            raise CheckpointError(
                f"{wanted.folder}: expected an empty or new folder, found data that was not generated here; choose "
                "another data.root, or set generate: null to read what is there"
            )
        return False
    if found.fingerprint == wanted.fingerprint:
        return found.whole
    changed = differences(found.identity, wanted.identity)
    version = f"inputs.{_VERSION}"
    if not found.whole or not all(line.startswith(f"{version}:") for line in changed):
        shown = "; ".join(changed[:5])
        state = "a data set" if found.whole else "an unfinished data set"
        raise CheckpointError(
            f"{wanted.folder}: expected the data set of this configuration, found {state} of another ({len(changed)} "
            f"differ: {shown}); {REMEDY}"
        )
    log.warning(
        "%s: already generated, with these settings, by generator version %s (irl-vla %s); this is version %d, which "
        "would give other scenes: they are used as they are, generate.replace=true makes them anew",
        wanted.folder,
        found.identity.inputs[_VERSION],
        found.code[-1],
        GENERATOR_VERSION,
    )
    return True


def remove_world(root: Path) -> None:
    """Removes a generated data set; it is marked as not whole first.

    Raises:
        CheckpointError: if the folder holds anything else; then nothing is removed.
    """
    foreign = sorted({path.name for path in root.iterdir()} - {*_WRITTEN, OWNER_NAME})
    if foreign:
        raise CheckpointError(
            f"{root}: expected a generated data set alone, found {', '.join(foreign[:5])} beside it; move that away "
            "before the data set is replaced, or choose another data.root"
        )
    record = find_record(Location.of(root))
    if record is not None:  # no longer whole, from here on
        (Location.of(root) / RECORD_NAME).write_text(replace(record, whole=False).to_json())
    for name in _WRITTEN:
        Location.of(root / name).delete()
    log.info("%s: removed the data set that was there", root)
