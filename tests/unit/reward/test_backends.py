import numpy as np
import pytest
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.errors import ConfigError
from irl_vla.policy.token_bank import TokenBank
from irl_vla.reward import labels as labelling
from irl_vla.reward.backends import MixBackend, ModelBackend, ScorerBackend, VocabularyBackend, make_backend
from irl_vla.reward.config import BackendConfig, LabelConfig, ProposalConfig, RewardModelConfig
from irl_vla.reward.labels import LabelInputs, write_labels
from irl_vla.reward.loss import LEARNED
from irl_vla.reward.model import RewardWorldModel, predict_subscores
from irl_vla.reward.views import bank_rollouts, look
from irl_vla.scene import SUBSCORES, SubScores

from ..ledger.here import without_ray
from .roads import straight, write_world

HC, EC = SUBSCORES.index("hc"), SUBSCORES.index("ec")
SCORER = ScorerConfig()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), rows=6)


@pytest.fixture(scope="module")
def bank(world):
    return TokenBank.open(world[0])


@pytest.fixture
def scorer(world, bank):
    return ScorerBackend(PreparedStore.open(world[1]), bank, SCORER, scenes_in_memory=2)


def some_plans(rows, count):
    generator = np.random.default_rng(len(rows))
    shape = (len(rows), count)
    values = (generator.uniform(2, 12, shape), generator.uniform(-4, 2, shape), generator.uniform(-0.05, 0.05, shape))
    return np.stack([[straight(*item) for item in zip(*row, strict=True)] for row in zip(*values, strict=True)])


def small_model(bank, seed=0):
    torch.manual_seed(seed)
    return RewardWorldModel(bank.layout, RewardModelConfig()).eval()


@pytest.mark.parametrize("rows", [[0, 1, 2], [4, 4, 1], [2, 0, 2, 5, 2]])
def test_model_backend_groups_plans_by_scene_without_mixing_them_up(bank, rows):
    rows, net = np.array(rows), small_model(bank)
    plans = some_plans(rows, 3)
    found = ModelBackend((net,), bank, BackendConfig(computed_comfort=False, plans_per_batch=4)).score(rows, plans)
    with torch.inference_mode():
        expected = predict_subscores((net,), look(net.config, bank, rows, plans, bank_rollouts(bank, rows, plans)))
    columns = [SUBSCORES.index(name) for name in LEARNED]
    np.testing.assert_allclose(found.values[..., columns], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(found.values[..., EC]).all()
    assert found.valid.all()


def test_model_backend_computes_history_comfort(bank, scorer):
    rows = np.array([0, 3])
    plans = some_plans(rows, 8)
    found = ModelBackend((small_model(bank),), bank, BackendConfig()).score(rows, plans)
    np.testing.assert_array_equal(found.values[..., HC], scorer.score(rows, plans).values[..., HC])


def test_scorer_backend_is_the_scorer_and_forgets_the_oldest_scene(bank, scorer):
    rows = np.array([0, 1, 2, 0])
    plans = some_plans(rows, 2)
    found = scorer.score(rows, plans)
    assert found.valid.all()
    assert len(scorer._scenes) == 2
    one = scorer.score(rows[2:3], plans[2:3])
    np.testing.assert_array_equal(one.values[0], found.values[2])


def test_rows_without_a_scene_are_invalid_and_said_to_be(world, bank, tmp_path, caplog):
    _, other = write_world(tmp_path, rows=2)
    backend = ScorerBackend(PreparedStore.open(other), bank, SCORER, 10)
    found = backend.score(np.array([1, 5]), some_plans([1, 5], 2))
    np.testing.assert_array_equal(found.valid, [[True, True], [False, False]])
    assert "2 of 4 plans have no prepared scene" in caplog.text


def test_vocabulary_backend_returns_the_labels_of_labelled_plans(world, bank, scorer, tmp_path, monkeypatch):
    without_ray(monkeypatch, labelling)
    config = LabelConfig(proposals=ProposalConfig(vocabulary_size=4, vocabulary=2))
    labels = write_labels(LabelInputs(*world), tmp_path, config, SCORER, seed=0)
    rows = np.array([3, 1])
    backend = VocabularyBackend(labels)
    found = backend.score(rows, labels.plans[rows] + 1e-3)
    np.testing.assert_array_equal(found.values, labels.subscores()[rows])
    opened = make_backend(BackendConfig(kind="vocabulary"), world[0], labels=tmp_path)
    np.testing.assert_array_equal(opened.score(rows, labels.plans[rows]).values, found.values)
    assert not backend.score(np.array([77]), labels.plans[:1]).valid.any()


class Fixed:
    def __init__(self, value, valid):
        self.value, self.valid = value, valid

    def score(self, rows, plans):
        shape = plans.shape[:2]
        return SubScores(np.full((*shape, 9), self.value if self.valid else np.nan), np.full(shape, self.valid))


def test_mix_weighs_two_backends_and_falls_back_on_the_valid_one():
    rows, plans = np.arange(2), np.zeros((2, 3, 8, 3))
    assert MixBackend(Fixed(0.2, True), Fixed(1.0, True), 0.25).score(rows, plans).values == pytest.approx(0.4)
    assert MixBackend(Fixed(0.2, True), Fixed(1.0, False), 0.25).score(rows, plans).values == pytest.approx(0.2)
    assert MixBackend(Fixed(0.2, False), Fixed(1.0, True), 0.25).score(rows, plans).values == pytest.approx(1.0)
    assert not MixBackend(Fixed(0.2, False), Fixed(1.0, False), 0.25).score(rows, plans).valid.any()


def test_a_backend_without_its_input_is_refused(world):
    with pytest.raises(ConfigError, match="needs model"):
        make_backend(BackendConfig(kind="mix"), world[0], store=world[1], scorer=SCORER)
    with pytest.raises(ConfigError, match="needs labels"):
        make_backend(BackendConfig(kind="vocabulary"), world[0])
