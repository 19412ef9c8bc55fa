import numpy as np
import pytest
import torch

from irl_vla.epdms.config import ScorerConfig
from irl_vla.epdms.store import PreparedStore
from irl_vla.ledger.storage import Location
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.planner_config import PlannerConfig
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import build_chain
from irl_vla.reward.chains import chain_sampler
from irl_vla.reward.config import LabelConfig, ProposalConfig
from irl_vla.reward.label_shards import read_label_shard, write_label_shard
from irl_vla.reward.labels import LabelSources, label_log
from irl_vla.reward.plan_codes import rounded
from irl_vla.reward.proposals import SOURCES, RowFacts, propose, row_generator

from .roads import LAYOUT, straight, write_world

HUMANS = np.stack([straight(v, a, k) for v in (3, 8, 12) for a in (-1, 0, 1) for k in (-0.02, 0, 0.02)])


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return TokenBank.open(write_world(tmp_path_factory.mktemp("world"), rows=6)[0])


@pytest.fixture(scope="module")
def chain():
    torch.manual_seed(0)
    config = PlannerConfig()
    return build_chain(config, LAYOUT, PlanCodec.fit(HUMANS, config.mode_floor)).eval()


def sampled(chain, bank, rows, rows_per_batch=2, chains=3):
    generators = [row_generator(1, row) for row in rows]
    return chain_sampler(chain, bank, rows_per_batch)(np.array(rows), chains, generators)


def test_labels_with_plans_of_a_policy_take_few_bytes(chain, tmp_path):
    bank, store = write_world(tmp_path, rows=20)
    opened, vocabulary = TokenBank.open(bank), rounded(HUMANS).astype(np.float64)
    sources = LabelSources(opened, PreparedStore.open(store), vocabulary, chain_sampler(chain, opened, 8))
    config = LabelConfig(proposals=ProposalConfig(vocabulary=4, policy=48, denoising=24))
    labels = label_log(np.arange(20), sources, config, ScorerConfig(), seed=0)
    assert (labels.source == SOURCES.index("policy")).sum() == 20 * 48
    shard = Location.of(tmp_path / "log.parquet")
    write_label_shard(shard, labels, vocabulary, "x")
    assert labels.source.size >= 1000
    assert shard.size_bytes() / labels.source.size <= 80.0
    np.testing.assert_array_equal(read_label_shard(shard, vocabulary, config.proposals.count, "x").plans, labels.plans)


def test_chains_of_a_row_do_not_depend_on_the_other_rows_or_the_batch(chain, bank):
    together = sampled(chain, bank, [0, 3, 5, 1])
    assert together.shape == (4, 3, chain.steps + 1, 8, 3)
    np.testing.assert_allclose(sampled(chain, bank, [3])[0], together[1], atol=1e-4)
    np.testing.assert_allclose(sampled(chain, bank, [0, 3, 5, 1], rows_per_batch=32), together, atol=1e-4)


def test_chains_come_from_the_policy(chain, bank):
    codes = chain.codec.encode(torch.from_numpy(sampled(chain, bank, [2])[0]).float())
    noise = row_generator(1, 2).standard_normal((3, chain.steps + 1, 24), np.float32)
    torch.testing.assert_close(codes[:, 0], torch.from_numpy(noise[:, 0]), rtol=1e-2, atol=1e-2)


def test_proposals_hold_every_denoising_step(chain, bank):
    config = ProposalConfig(policy=1, denoising=5)
    rows = np.arange(4)
    speeds, plans = np.full(4, 8.0), bank.plan[rows].astype(float)
    facts = RowFacts(rows, speeds, plans, bank.has_plan[rows], bank.has_human[rows])
    found = propose(facts, HUMANS, chain_sampler(chain, bank, 2), config, seed=1)
    steps = sampled(chain, bank, rows.tolist(), chains=1)[:, 0]
    for row in rows:
        plans = found.plans[row][found.source[row] == SOURCES.index("denoising")]
        gaps = np.abs(plans[:, None] - steps[row, None, :-1]).max((2, 3))
        assert sorted(gaps.argmin(1)) == [0, 1, 2, 3, 4]
        policy = found.plans[row][found.source[row] == SOURCES.index("policy")]
        np.testing.assert_allclose(policy[0], steps[row, -1], atol=1e-3)
