"""Labels of a shifted view: nobody drove from there, so nothing is forgiven and no proposal is a human's."""

from dataclasses import replace

import numpy as np
import pytest

from irl_vla.dataset.views import imitated_plan, shifted_scene
from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.inputs import prepare_scene
from irl_vla.epdms.scorer import score_plans
from irl_vla.epdms.store import PreparedStore, write_shard
from irl_vla.geometry import relative_to
from irl_vla.policy.token_bank import BankRows, TokenBank
from irl_vla.reward import labels as labelling
from irl_vla.reward.backends import ScorerBackend
from irl_vla.reward.config import LabelConfig, ProposalConfig
from irl_vla.reward.labels import LabelInputs, write_labels
from irl_vla.reward.proposals import SOURCES
from irl_vla.scene import SUBSCORES
from tests.unit.policy.banks import store_bank

from ..driving.straight_map import straight_map
from ..epdms.driving_scene import scene
from ..ledger.here import without_ray
from .roads import LAYOUT

CONFIG = LabelConfig(proposals=ProposalConfig(vocabulary_size=8, vocabulary=4, manoeuvre=4))
SCORER = ScorerConfig()
LK = SUBSCORES.index("lk")
SPEED_MPS = 1.5
MILLIMETRE = 1.01e-3  # to which plans are rounded
LOGGED, VIEW = 0, 1


@pytest.fixture(scope="module")
def scenes():
    """A slow drive along the middle of a lane, and the same moment seen from 0.9 m beside it."""
    logged = scene(speed=SPEED_MPS)
    view = replace(shifted_scene(logged, np.array([0.0, 0.9, 0.0])), token=f"{logged.token}-s1")
    return logged, view


@pytest.fixture(scope="module")
def world(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    store, bank = folder / "store", folder / "bank"
    store.mkdir()
    write_shard(store / "scenes.arrow", [prepare_scene(item, straight_map()) for item in scenes])
    history = np.zeros((2, 4, 7), np.float32)
    history[..., 3] = SPEED_MPS
    columns = BankRows(
        token=np.array([item.token for item in scenes]),
        scene_token=np.full(2, scenes[0].token),
        view=np.array(["original", "s1"]),
        log_name=np.full(2, "log"),
        group=np.full(2, "group"),
        kind=np.full(2, ""),
        timestamp_us=np.full(2, scenes[0].current.timestamp_us),
        ego_history=history,
        command=np.ones(2, np.int64),
        plan=np.stack([imitated_plan(item) for item in scenes]).astype(np.float32),
        has_plan=np.array([imitated_plan(item) is not None for item in scenes]),
        has_human=np.array([item.has_human for item in scenes]),
    )
    store_bank(bank, LAYOUT, "perception-a", np.zeros((2, LAYOUT.total, LAYOUT.width)), columns)
    return bank, store


@pytest.fixture
def labels(world, tmp_path, monkeypatch):
    without_ray(monkeypatch, labelling)
    return write_labels(LabelInputs(*world), tmp_path, CONFIG, SCORER, seed=0)


def of_source(labels, row, name):
    return labels.source[row] == SOURCES.index(name)


def test_no_proposal_of_a_view_is_a_humans(labels, scenes):
    assert of_source(labels, LOGGED, "human").sum() == 1
    assert of_source(labels, LOGGED, "recovery").sum() == 0
    assert of_source(labels, VIEW, "human").sum() == 0
    found = labels.plans[VIEW][of_source(labels, VIEW, "recovery")]
    np.testing.assert_allclose(found, imitated_plan(scenes[VIEW])[None], atol=MILLIMETRE)


def test_the_vocabulary_holds_no_plan_of_a_view(labels, scenes):
    np.testing.assert_allclose(labels.vocabulary, scenes[LOGGED].human_plan()[None], atol=MILLIMETRE)


def test_nothing_is_forgiven_in_a_view(labels):
    assert labels.human_filter
    assert np.isfinite(labels.human[LOGGED, :7]).all()
    assert np.isnan(labels.human[VIEW]).all()
    np.testing.assert_array_equal(labels.subscores()[VIEW], labels.raw[VIEW])


def test_lane_keeping_of_the_way_back_counts(labels, scenes, world):
    """At walking pace the way back is longer than the plan: it leaves the middle of the lane for too long."""
    way_back = imitated_plan(scenes[VIEW])[None]
    assert labels.subscores()[VIEW][of_source(labels, VIEW, "recovery"), LK].tolist() == [0.0]
    bank, store = TokenBank.open(world[0]), PreparedStore.open(world[1])
    scored = ScorerBackend(store, bank, SCORER, scenes_in_memory=1).score(np.array([VIEW]), way_back[None])
    assert scored.values[0, 0, LK] == 0.0
    # With the logged poses for a human, as if someone had driven from there, it would be forgiven.
    future = np.stack([frame.ego.pose_global for frame in scenes[VIEW].future[:8]])
    jump = relative_to(scenes[VIEW].current.ego.pose_global, future)
    forgiven = score_plans(replace(store[scenes[VIEW].token], human_plan=jump), way_back, SCORER)
    assert forgiven.human[LK] == 0.0
    assert forgiven.filtered[0, LK] == 1.0


def test_disturbed_plans_of_a_view_start_from_the_way_back(labels, scenes):
    """Hard braking and the last pose but one follow its path, not the jump of the logged poses to the middle."""
    way_back = imitated_plan(scenes[VIEW])
    reversed_plan = labels.plans[VIEW][of_source(labels, VIEW, "reversed")][0]
    np.testing.assert_allclose(reversed_plan[:-1], way_back[:-1], atol=MILLIMETRE)
    braking = labels.plans[VIEW][of_source(labels, VIEW, "hard_brake")]
    assert (np.abs(braking[..., 1]) < 0.2).all(), "it stops before it has come far to the side"
