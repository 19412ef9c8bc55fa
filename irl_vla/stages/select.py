"""Narrows the splits of a generated data set to the scenes worth judging, behind the stage that generates it."""

import logging

import numpy as np

from irl_vla.dataset.fingerprint import generator_of
from irl_vla.judge.selected_split import begin_selection, is_selected, narrow_split, write_selection
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.ledger.files import content_hash
from irl_vla.stages import folders
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.session import ray_session
from irl_vla.world.plan import SPLITS

log = logging.getLogger(__name__)


def select(experiment: Experiment, config: SelectionConfig | None) -> None:
    """Prepares all scenes of every generated split, for later stages too, and chooses among them.

    A repeated call finds the record and does nothing; an interrupted one goes on from the prepared logs.

    Raises:
        CheckpointError: if the data set's scenes were selected by other settings.
        SceneError: if no scene of a split stays.
    """
    dataset = folders.dataset(experiment)
    if config is None:
        is_selected(dataset, None)
        return
    fingerprint = content_hash({"selection": config.model_dump(mode="json"), "world": generator_of(dataset.root)})
    if is_selected(dataset, fingerprint):
        log.info("%s: scenes are selected already", dataset.root)
        return
    narrowed = {}
    with ray_session(experiment.ray):
        for number, split in enumerate(SPLITS):
            begin_selection(dataset, split)
            store = folders.prepared(experiment, split)
            generator = np.random.default_rng([experiment.data_seed, number])
            narrowed[split] = narrow_split(dataset, split, store, config, generator)
    log.info("selection: reasons in %s", write_selection(dataset, fingerprint, narrowed))
