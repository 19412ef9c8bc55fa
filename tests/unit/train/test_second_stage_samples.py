"""Samples of a two-stage split: what token banks, and with them trained policies, need of the second stage."""

from pathlib import Path

import numpy as np
import pytest

from irl_vla.dataset.scenes import scene_refs
from irl_vla.ledger.storage import Location
from irl_vla.policy.config import EncoderConfig
from irl_vla.train.config import SampleConfig
from irl_vla.train.encode import SampleJob, write_samples
from tests.unit.dataset.second_stage_example import SPLIT, write_two_stage


def test_second_stage_scenes_are_encoded_without_a_human(tmp_path: Path) -> None:
    dataset = write_two_stage(tmp_path / "data")
    job = SampleJob(
        dataset=dataset,
        dataset_fingerprint="d",
        split=SPLIT,
        encoder=EncoderConfig(),
        samples=SampleConfig(workers=0, incomplete="blank"),
        views=None,
        view_sensors=None,
        seed=0,
        folder=Location.of(tmp_path / "samples"),
    )
    samples = write_samples({"all": job})["all"]
    refs, taken = scene_refs(dataset, SPLIT), samples.take(np.arange(len(samples)))
    assert samples.rows.token.tolist() == [ref.token for ref in refs]
    synthetic = np.array([len(ref.token) == 17 for ref in refs])
    assert synthetic.sum() == 4
    np.testing.assert_array_equal(samples.rows.has_human, ~synthetic)
    assert not taken["plan"][synthetic].any()
    assert (taken["meta_action"][synthetic] == -1).all()
    assert taken["plan"][~synthetic, -1, 0] == pytest.approx([40.0, 40.0])
