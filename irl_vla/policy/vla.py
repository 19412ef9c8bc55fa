"""The whole vision-language-action policy: observations to plans, and its checkpoints."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from irl_vla.config import validated
from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import Checkpoint, Provenance, load_checkpoint, save_checkpoint
from irl_vla.ledger.storage import Location
from irl_vla.policy.batch import ObservationBatch, SceneTokens
from irl_vla.policy.codec import PlanCodec
from irl_vla.policy.config import EncoderConfig
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.policy.encoder import SceneEncoder
from irl_vla.policy.planner import DiffusionPlanner
from irl_vla.policy.planner_config import PlannerConfig, PolicyConfig
from irl_vla.policy.sight import sight_layout
from irl_vla.policy.token_bank import TokenLayout

PRETRAIN_STAGE: Final = "pretrain"
FINETUNE_STAGE: Final = "finetune"
#: Both stages write a whole policy; fine-tuning changes the chain alone.
POLICY_STAGES: Final = (PRETRAIN_STAGE, FINETUNE_STAGE)
_PERCEPTION_INPUT: Final = "perception"


class Policy(nn.Module):
    """Scene encoder and denoising chain."""

    def __init__(self, encoder: SceneEncoder, chain: DenoisingChain) -> None:
        super().__init__()
        self.encoder, self.chain = encoder, chain

    def forward(self, batch: ObservationBatch) -> Tensor:
        """(B, 8, 3) deterministic plans in the ego frame: what is deployed."""
        return self.plans_from(self.encoder(batch))

    def plans_from(self, tokens: SceneTokens | Tensor) -> Tensor:
        """(B, 8, 3) deterministic plans from scene tokens, packed or not."""
        return self.chain.plans(self.chain.planner.scene_keys(tokens))[:, 0]


def token_layout(config: EncoderConfig) -> TokenLayout:
    """How the encoder's tokens are packed, and what is kept beside them."""
    return TokenLayout(config.token_counts, config.width, sight_layout(config))


def build_chain(config: PlannerConfig, layout: TokenLayout, codec: PlanCodec) -> DenoisingChain:
    """An untrained chain."""
    return DenoisingChain(DiffusionPlanner(config.decoder, config.chain, layout), codec, config.chain)


def build_policy(config: PolicyConfig, codec: PlanCodec, seed: int) -> Policy:
    """A policy whose initial weights depend on configuration and seed alone; torch's generator is left untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = SceneEncoder(config.encoder)
        return Policy(encoder, build_chain(config.planner, token_layout(config.encoder), codec))


def perception_hash(encoder: nn.Module) -> str:
    """Hash of the encoder's weights, 16 hex digits: token banks are known by it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_policy(policy: Policy, folder: Location | Path, config: PolicyConfig, provenance: Provenance) -> Checkpoint:
    """Writes the checkpoint of imitation."""
    inputs = {**provenance.inputs, _PERCEPTION_INPUT: perception_hash(policy.encoder)}
    states = {"encoder": policy.encoder.state_dict(), "chain": policy.chain.state_dict()}
    return save_checkpoint(
        folder, PRETRAIN_STAGE, states, config, Provenance(provenance.seed, inputs, provenance.extra)
    )


def save_finetuned(
    chain: DenoisingChain, source: Location | Path, folder: Location | Path, provenance: Provenance
) -> Checkpoint:
    """Writes a policy with a fine-tuned chain and the encoder of the checkpoint that it started from.

    The chain's own settings (the floor it explored with, in particular) are recorded.

    Raises:
        CheckpointError: if ``source`` is no policy checkpoint.
    """
    start = load_checkpoint(source, *POLICY_STAGES, modules=("encoder",))
    config = _policy_config(start)
    planner = config.planner.model_copy(update={"chain": chain.config})
    inputs = {
        **provenance.inputs,
        _PERCEPTION_INPUT: start.provenance.inputs[_PERCEPTION_INPUT],
        "start": start.fingerprint,
    }
    return save_checkpoint(
        folder,
        FINETUNE_STAGE,
        {"encoder": start.state_dicts["encoder"], "chain": chain.state_dict()},
        config.model_copy(update={"planner": planner}),
        Provenance(provenance.seed, inputs, provenance.extra),
    )


def load_policy(folder: Location | Path) -> tuple[Policy, PolicyConfig]:
    """Reads a policy of imitation or fine-tuning, ready for inference.

    Raises:
        CheckpointError: if it is missing, not whole, or does not fit its own configuration.
    """
    checkpoint = load_checkpoint(folder, *POLICY_STAGES)
    config = _policy_config(checkpoint)
    policy = build_policy(config, PlanCodec(), seed=0)
    _load(policy.encoder, checkpoint, "encoder")
    _load(policy.chain, checkpoint, "chain")
    return policy.eval(), config


def load_chain(
    folder: Location | Path, sigma_floor_m: float | None = None, *, perception_hash: str | None = None
) -> DenoisingChain:
    """Reads the denoising chain of a policy alone, for work on a token bank.

    Args:
        sigma_floor_m: another exploration floor than the checkpoint's.
        perception_hash: of the bank; None accepts any.

    Raises:
        CheckpointError: if the checkpoint is missing, not whole, or of another perception.
    """
    checkpoint = load_checkpoint(folder, *POLICY_STAGES, modules=("chain",))
    found = checkpoint.provenance.inputs[_PERCEPTION_INPUT]
    if perception_hash is not None and found != perception_hash:
        raise CheckpointError(
            f"{folder}: expected a policy of perception {perception_hash}, found one of {found}; "
            "use the token bank that was written with this policy"
        )
    config = _policy_config(checkpoint)
    planner = config.planner
    if sigma_floor_m is not None:
        planner = planner.with_overrides({"chain.sigma_floor_m": sigma_floor_m})
    chain = build_chain(planner, token_layout(config.encoder), PlanCodec())
    _load(chain, checkpoint, "chain")
    return chain.eval()


def _policy_config(checkpoint: Checkpoint) -> PolicyConfig:
    return validated(PolicyConfig, checkpoint.config, source=str(checkpoint.folder))


def _load(module: nn.Module, checkpoint: Checkpoint, name: str) -> None:
    weights: Mapping[str, Any] = checkpoint.state_dicts[name]
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.folder}: weights of {name} do not fit the checkpoint's own configuration: {error}; "
            f"it was written by another version of the code: run `irl-vla {checkpoint.stage}` again"
        ) from error
