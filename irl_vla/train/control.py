"""The control of fine-tuning: the planner imitates on, with the same rows, steps, learning rate and averaging.

If this gains as much as PPO does, the gain was more training, not the reward.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from irl_vla.ledger.checkpoint import Provenance
from irl_vla.policy.averaging import mean_policy, running_mean
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.token_bank import TokenBank
from irl_vla.policy.vla import load_chain, save_finetuned


def imitate_on(
    policy: Path,
    bank_path: Path,
    folder: Path,
    *,
    steps: int,
    scenes: int,
    draws: int,
    learning_rate: float,
    grad_norm: float,
    seed: int,
    average: float,
    validate_every: int,
    validate: Callable[[DenoisingChain], Mapping[str, float]],
) -> Path:
    """Trains the planner on the plans to imitate of a token bank; the state with the best true score is kept.

    Shifted views are among its rows, as in imitation and in PPO, with the way back to the logged path as their plan.

    Args:
        policy: checkpoint to start from.
        scenes, draws: bank rows of a step and noised plans of each.
        average: share that the running mean of the weights, which is validated and kept, keeps in a step.

    Returns:
        The checkpoint folder.
    """
    bank = TokenBank.open(bank_path)
    chain = load_chain(policy, perception_hash=bank.perception_hash)
    imitable = np.flatnonzero(bank.has_plan)
    optimiser = torch.optim.Adam(chain.planner.parameters(), lr=learning_rate)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng([4, seed])
    mean = running_mean(chain, average)
    best = -np.inf
    for step in range(steps + 1):
        if step % validate_every == 0 or step == steps:
            score = validate(mean_policy(mean))["epdms"]
            if score > best:
                best = score
                origin = Provenance(seed, {"bank": bank.fingerprint}, {"step": step, "val_epdms": score})
                save_finetuned(mean_policy(mean), policy, folder, origin)
        if step == steps:
            break
        rows = rng.choice(imitable, size=scenes, replace=scenes > len(imitable))
        loss = imitation_loss(chain, bank, rows, draws, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(chain.planner.parameters(), grad_norm)
        optimiser.step()
        mean.update_parameters(chain)
    return folder


def imitation_loss(
    chain: DenoisingChain, bank: TokenBank, rows: np.ndarray, draws: int, generator: torch.Generator
) -> torch.Tensor:
    """Squared error of the predicted clean plan at random noise levels, in whitened units."""
    clean = chain.codec.encode(torch.from_numpy(bank.plan[rows]))[:, None].expand(-1, draws, -1)
    step = torch.randint(1, chain.steps + 1, (len(rows), draws), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    keys = chain.planner.scene_keys(torch.from_numpy(bank.tokens(rows)))
    predicted = chain.planner.predict(chain.noised(clean, step, noise), step, keys)
    return (predicted - clean).square().mean()
