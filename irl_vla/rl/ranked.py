"""Stage 3 by ranking: the planner imitates the plan that the reward likes best among many of its own.

In rounds: the policy of the moment plans many times in every row of the bank, the reward chooses
(:mod:`irl_vla.rl.ranking`), and the planner learns the chosen plans with imitation's own loss. PPO follows the gradient
of a mean over noisy plans; this asks the reward for an order among them, and no more.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from irl_vla.ledger.storage import Location
from irl_vla.policy.averaging import mean_policy, running_mean
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.rl.job import FinetuneJob, run_job
from irl_vla.rl.ranking import Targets, ranked_targets
from irl_vla.rl.task import TaskSpec
from irl_vla.train.loop import one_cycle
from irl_vla.train.planner_loss import planner_loss

_STEP_STREAM: Final = 6
_STATE: Final = "ranked.pt"


class RankedTraining:
    """Imitation of chosen plans as a :class:`irl_vla.rl.job.Training`.

    Args:
        spec: what it runs on.
        folder: of the fine-tuning; the chosen plans are kept there.

    Attributes:
        iteration: iterations done.
    """

    def __init__(self, spec: TaskSpec, folder: Location) -> None:
        self._spec, self._folder = spec, folder
        self._bank = TokenBank.open(spec.bank)
        config = spec.config
        self._chain = load_chain(
            spec.policy, sigma_floor_m=config.sigma_floor_m, perception_hash=self._bank.perception_hash
        )
        self._average = running_mean(self._chain, config.average)
        self._new_optimiser()
        self._targets: Targets | None = None
        self.iteration = 0

    def train(self) -> dict[str, float]:
        """Takes the optimiser steps of one iteration; a round that begins in it first chooses its plans."""
        config = self._spec.config
        total = config.ranked.rounds * config.ranked.steps
        first, end = (total * number // config.iterations for number in (self.iteration, self.iteration + 1))
        losses = [self._step(step) for step in range(first, end)]
        self._average.update_parameters(self._chain)
        self.iteration += 1
        return {"finetune/ranked_loss": float(np.mean(losses))} | _figures(self._targets) if losses else {}

    def policy(self) -> DenoisingChain:
        """The running average of the weights."""
        return mean_policy(self._average)

    def save(self, folder: Path) -> None:
        """Writes all that is learned and the plans that are learned from; random numbers follow from the step."""
        folder.mkdir(parents=True, exist_ok=True)
        targets = None if self._targets is None else [torch.from_numpy(np.array(part)) for part in self._targets]
        state = {
            "chain": self._chain.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "targets": targets,
            "iteration": self.iteration,
        }
        torch.save(state, folder / _STATE)

    def restore(self, folder: Path) -> None:
        """Reads them."""
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        self._chain.load_state_dict(state["chain"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._targets = None if state["targets"] is None else Targets(*(part.numpy() for part in state["targets"]))
        self.iteration = state["iteration"]

    def _new_optimiser(self) -> None:
        config = self._spec.config.ranked
        self._optimiser = torch.optim.AdamW(
            self._chain.planner.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._schedule = one_cycle(self._optimiser, config.steps, config.warmup_fraction)

    def _begin_round(self, number: int) -> Targets:
        self._new_optimiser()
        return ranked_targets(self._spec, self._bank, self.policy(), number, self._folder)

    def _step(self, step: int) -> float:
        """One optimiser step; its loss."""
        config, chain = self._spec.config.ranked, self._chain
        if self._targets is None or step % config.steps == 0:
            self._targets = self._begin_round(step // config.steps)
        rng = np.random.default_rng([_STEP_STREAM, self._spec.seed, step])
        rows = rng.choice(len(self._bank), config.batch_rows, replace=config.batch_rows > len(self._bank))
        shape = (len(rows), config.noise_draws)
        level = torch.from_numpy(rng.integers(1, chain.steps + 1, shape))
        noise = torch.from_numpy(rng.standard_normal((*shape, chain.codec.mean.numel()), np.float32))
        keys = chain.planner.scene_keys(torch.from_numpy(self._bank.tokens(rows)))
        parts = planner_loss(chain, keys, torch.from_numpy(self._targets.plan[rows]), level, noise)
        loss = config.diffusion_weight * parts.diffusion + config.plan_weight * parts.displacement_m
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(chain.planner.parameters(), self._spec.config.grad_clip)
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())


def train_ranked(job: FinetuneJob) -> Location:
    """Fine-tunes by ranking; a run that was interrupted goes on from its last state, and from the plans it has chosen.

    Returns:
        Folder of the best checkpoint, see :func:`irl_vla.rl.job.run_job`.

    Raises:
        SceneError: if the reward backend cannot score a row.
    """
    return run_job(job, RankedTraining(job.spec, job.folder))


def by_chance(spec: TaskSpec) -> TaskSpec:
    """The control's task: chance chooses in the reward's place, and nothing else is different."""
    return replace(spec, config=spec.config.with_overrides({"ranked.choice": "random"}))


def _figures(targets: Targets | None) -> dict[str, float]:
    """Of a round: share of rows that keep the deterministic plan; mean gain by the reward, if it chose."""
    if targets is None:
        return {}
    kept = {"finetune/ranked_kept": float((targets.choice == 0).mean())}
    return kept if np.isnan(targets.gain).all() else kept | {"finetune/ranked_gain": float(targets.gain.mean())}
