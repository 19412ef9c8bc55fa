"""The control of fine-tuning: the same without the reward.

Of the ranked method: chance chooses in the reward's place. Of PPO: the planner goes on imitating, on the scene rows of
every PPO iteration that have a plan to imitate, in the same minibatches and epochs, with the learning rate, gradient
clipping and averaging of PPO. The control's states are validated, chosen and stopped alike. If it gains as much, the
gain was more training, not the reward.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from irl_vla.errors import SceneError
from irl_vla.ledger.storage import Location
from irl_vla.policy.averaging import mean_policy, running_mean
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain
from irl_vla.rl.chains import Rows, draw_scenes, learning_order
from irl_vla.rl.job import FinetuneJob, Metrics, run_job
from irl_vla.rl.ranked import by_chance, train_ranked
from irl_vla.rl.task import TaskSpec
from irl_vla.train.config import ImitationConfig
from irl_vla.train.loop import threads
from irl_vla.train.planner_loss import planner_loss

_CONTROL_STREAM: Final = 4
_STATE: Final = "control.pt"

log = logging.getLogger(__name__)


class ControlTraining:
    """Imitation as a :class:`irl_vla.rl.job.Training`.

    Args:
        spec: the task of the PPO that this is the control of.
        imitation: weights of imitation's own loss.

    Attributes:
        iteration: iterations done.

    Raises:
        SceneError: if no row of the bank has a plan to imitate.
    """

    def __init__(self, spec: TaskSpec, imitation: ImitationConfig) -> None:
        self._spec, self._imitation = spec, imitation
        self._bank = TokenBank.open(spec.bank)
        known = plans_to_imitate(self._bank, np.arange(len(self._bank)))[1]
        if not known.any():
            raise SceneError(f"{spec.bank}: expected rows with a plan to imitate, found none among {len(known)}")
        if not known.all():
            log.info("control: %d of %d bank rows have no plan to imitate", int((~known).sum()), len(known))
        self._chain = load_chain(spec.policy, perception_hash=self._bank.perception_hash)
        self._optimiser = torch.optim.Adam(self._chain.planner.parameters(), lr=spec.config.lr)
        self._average = running_mean(self._chain, spec.config.average)
        self.iteration = 0

    def train(self) -> dict[str, float]:
        """Takes the optimiser steps of one PPO iteration; a minibatch without any plan to imitate takes none."""
        config, seed = self._spec.config, self._spec.seed
        drawn = draw_scenes(self._bank, seed, self.iteration, config.scenes_per_iteration, config.pair_frames)
        rows = drawn.rows.reshape(-1)
        minibatches = np.array_split(rows[learning_order(seed, self.iteration, len(rows))], config.minibatches)
        generator = _generator(seed, self.iteration)
        losses = [
            loss for minibatch in minibatches * config.epochs if (loss := self._step(minibatch, generator)) is not None
        ]
        self._average.update_parameters(self._chain)
        self.iteration += 1
        plans = int(plans_to_imitate(self._bank, rows)[1].sum())
        figures = {"finetune/control_plans": float(plans)}
        return figures | ({"finetune/control_loss": float(np.mean(losses))} if losses else {})

    def policy(self) -> DenoisingChain:
        """The running average of the weights."""
        return mean_policy(self._average)

    def save(self, folder: Path) -> None:
        """Writes weights, their average and the optimiser's state; random numbers follow from the iteration."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "chain": self._chain.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "iteration": self.iteration,
        }
        torch.save(state, folder / _STATE)

    def restore(self, folder: Path) -> None:
        """Reads them."""
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        self._chain.load_state_dict(state["chain"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.iteration = state["iteration"]

    def _step(self, rows: Rows, generator: torch.Generator) -> float | None:
        """One optimiser step on the rows that have a plan to imitate; its loss, None without such a row.

        A row is noised as often as PPO takes denoising steps in it.
        """
        plans, known = plans_to_imitate(self._bank, rows)
        if not known.any():
            return None
        chain, config = self._chain, self._spec.config
        wanted = torch.from_numpy(plans[known])
        shape = (len(wanted), config.chains_per_scene * chain.steps)
        step = torch.randint(1, chain.steps + 1, shape, generator=generator)
        noise = torch.randn(*shape, chain.codec.mean.numel(), generator=generator)
        keys = chain.planner.scene_keys(torch.from_numpy(self._bank.tokens(rows[known])))
        parts = planner_loss(chain, keys, wanted, step, noise)
        loss = self._imitation.diffusion_weight * parts.diffusion + self._imitation.plan_weight * parts.displacement_m
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(chain.planner.parameters(), config.grad_clip)
        self._optimiser.step()
        return float(loss.detach())


def train_control(job: FinetuneJob, imitation: ImitationConfig) -> Location:
    """Trains the control of a fine-tuning; like that, it goes on where it was interrupted.

    Args:
        job: the fine-tuning's, but with a folder of its own. Its figures are reported as ``finetune/control_...``.
        imitation: weights of imitation's own loss, for the control of PPO.

    Returns:
        Folder of the best checkpoint, see :func:`irl_vla.rl.job.run_job`.

    Raises:
        SceneError: if no row of the bank has a plan to imitate.
    """

    def report(metrics: Metrics, iteration: int) -> None:
        job.report({_own_name(name): value for name, value in metrics.items()}, iteration)

    own = replace(job, report=report)
    if job.spec.config.method == "ranked":
        with threads(1):
            return train_ranked(replace(own, spec=by_chance(job.spec)))
    return run_job(own, ControlTraining(job.spec, imitation))


def plans_to_imitate(bank: TokenBank, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Plans (B, 8, 3) of bank rows (B,), and which rows have one."""
    return bank.plan[rows], bank.has_plan[rows]


def _own_name(name: str) -> str:
    """The control's name of a figure: of a validation, or of the method that it is the control of."""
    return name.replace("finetune/val_", "finetune/control_val_").replace("finetune/ranked_", "finetune/control_")


def _generator(seed: int, iteration: int) -> torch.Generator:
    state = np.random.SeedSequence([_CONTROL_STREAM, seed, iteration]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
