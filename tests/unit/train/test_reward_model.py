import numpy as np
import pytest
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.errors import CheckpointError
from irl_vla.ledger.storage import Location
from irl_vla.reward import labels as labelling
from irl_vla.reward.config import LabelConfig, ProposalConfig, RewardTrainConfig
from irl_vla.reward.labels import LabelInputs, write_labels
from irl_vla.reward.relations import RELATIONS, STEPS
from irl_vla.train.reward_data import FitJob, draw_batch, held_out_rows, open_data
from irl_vla.train.reward_model import Ensemble, fit_steps, make_optimiser
from irl_vla.train.reward_quality import evaluate

from ..ledger.here import without_ray
from ..reward.roads import LAYOUT, write_world

CONFIG = RewardTrainConfig(steps=4, rows_per_batch=6, proposals_per_row=8, lr=3e-3, holdout_fraction=0.3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    bank, store = write_world(folder, rows=160, groups=16)
    config = LabelConfig(proposals=ProposalConfig(vocabulary_size=32))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch, labelling)
        write_labels(LabelInputs(bank, store), folder / "labels", config, ScorerConfig(), seed=0)
    return bank, folder / "labels", folder / "fit"


def job_of(folders, config=CONFIG, seed=0):
    bank, labels, folder = folders
    return FitJob(bank, labels, Location.of(folder), config, seed)


def fresh(config=CONFIG):
    torch.manual_seed(0)
    ensemble = Ensemble(LAYOUT, config)
    return ensemble, *make_optimiser(ensemble.parameters(), config)


def test_two_steps_and_two_more_equal_four(folders):
    job = job_of(folders)
    data = open_data(job)
    straight, *rest = fresh()
    fit_steps(straight, *rest, data, steps=range(4), job=job)
    first, optimiser, schedule = fresh()
    fit_steps(first, optimiser, schedule, data, steps=range(2), job=job)
    second, optimiser_2, schedule_2 = fresh()
    for new, old in ((second, first), (optimiser_2, optimiser), (schedule_2, schedule)):
        new.load_state_dict(old.state_dict())
    heard = []
    fit_steps(
        second,
        optimiser_2,
        schedule_2,
        data,
        steps=range(2, 4),
        job=job,
        after=lambda step, metrics: heard.append(step),
    )
    assert heard == [3, 4]
    for name, weights in straight.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], weights, rtol=0, atol=0)


def test_momentum_is_not_cycled():
    _, optimiser, schedule = fresh()
    for _ in range(CONFIG.steps):
        assert {group["betas"] for group in optimiser.param_groups} == {(0.9, 0.999)}
        optimiser.step()
        schedule.step()


def test_no_group_is_on_both_sides(folders):
    data = open_data(job_of(folders))
    sides = [set(data.bank.group[data.labels.rows[rows]]) for rows in (data.train, data.held_out)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == round(0.3 * 16)
    assert len(data.train) + len(data.held_out) == 160


def test_batches_depend_on_seed_and_step_alone_and_hold_no_held_out_row(folders):
    config = CONFIG.with_overrides({"model.members": 2})
    data = open_data(job_of(folders, config))
    one, two, next_one = (draw_batch(data, config, 0, step, 0) for step in (7, 7, 8))
    assert torch.equal(one.subscores, two.subscores)
    assert torch.equal(one.views[1].relations, two.views[1].relations)
    assert not torch.equal(one.views[0].tokens, next_one.views[0].tokens)
    assert one.subscores.shape == (2, 6, 8, 8)
    assert one.views[0].relations.shape == (6, 8, STEPS, len(RELATIONS))
    assert not torch.equal(one.views[0].tokens, one.views[1].tokens)  # members differ in their batches
    held_out = torch.from_numpy(data.bank.tokens(data.labels.rows[data.held_out])).flatten(1)
    assert not any((held_out == row).all(1).any() for views in one.views for row in views.tokens.flatten(1))


def test_members_draw_layouts_of_their_own_and_a_single_model_takes_all(folders):
    single = open_data(job_of(folders))
    assert np.array_equal(single.rows[0], single.train)
    data = open_data(job_of(folders, CONFIG.with_overrides({"model.members": 2})))
    groups = [data.bank.group[data.labels.rows[rows]] for rows in data.rows]
    assert [len(set(names)) < len(set(single.bank.group[single.labels.rows[single.train]])) for names in groups] == [
        True,
        True,
    ]
    assert set(groups[0]) != set(groups[1])


def test_one_group_cannot_be_held_out():
    with pytest.raises(CheckpointError, match="at least two groups"):
        held_out_rows(np.array(["a", "a"]), 0.2, 0)
    assert held_out_rows(np.array(["a", "b", "b"]), 0.01, 0).any()
    assert not held_out_rows(np.array(["a", "b", "b"]), 0.99, 0).all()


def test_labels_of_another_bank_are_refused(folders, tmp_path):
    bank, _ = write_world(tmp_path, rows=20)
    with pytest.raises(CheckpointError, match="expected labels of the rows"):
        open_data(FitJob(bank, folders[1], Location.of(tmp_path), CONFIG, 0))


@pytest.mark.learning
def test_it_learns_what_collides_and_picks_better_than_chance(folders):
    config = CONFIG.with_overrides({"steps": 250, "rows_per_batch": 16, "proposals_per_row": 32})
    job = job_of(folders, config)
    data = open_data(job)
    ensemble, *rest = fresh(config)
    fit_steps(ensemble, *rest, data, steps=range(config.steps), job=job)
    models = tuple(member.eval() for member in ensemble.members)
    quality = evaluate(models, data.bank, data.labels, data.held_out)
    found = {item.subscore: item for item in quality.subscores if item.source == "all"}
    assert found["nc"].auroc > 0.95
    assert found["dac"].auroc > 0.95
    assert found["ttc"].auroc > 0.9
    assert found["nc"].ece < 0.05
    pick = quality.picks[0]
    assert pick.regret < 0.5 * (pick.mean_best - pick.mean_random)
