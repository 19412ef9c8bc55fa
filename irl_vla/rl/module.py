"""The policy as an RLModule: a Gaussian over the next denoising state, and a critic that sees only the scene."""

import copy
from typing import Any, Final

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from irl_vla.policy.averaging import running_mean
from irl_vla.policy.diffusion import DenoisingChain, step_log_density
from irl_vla.policy.planner import SceneDecoder, SceneKeys
from irl_vla.policy.planner_config import DecoderConfig
from irl_vla.policy.token_bank import TokenBank, TokenLayout
from irl_vla.policy.vla import load_chain
from irl_vla.rl.chains import chain_noise
from irl_vla.rl.learner import CLONED_MEAN

_CRITIC: Final = DecoderConfig(width=32, heads=2, layers=1, feedforward=64, queries=2)


class SceneCritic(nn.Module):
    """V(scene): the expected reward of the policy's plans there.

    It sees neither x_k nor k: the return hardly depends on them, and a critic that does look learns noise.
    """

    def __init__(self, layout: TokenLayout) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, _CRITIC.queries, _CRITIC.width))
        self.decoder = SceneDecoder(_CRITIC, layout)
        self.head = nn.Linear(_CRITIC.queries * _CRITIC.width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,) values of packed scene tokens (B, N, D)."""
        queries = self.query.expand(len(tokens), -1, -1, -1)
        value: Tensor = self.head(self.decoder(queries, self.decoder.scene_keys(tokens)))[:, 0, 0]
        return value


class ChainModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """Starts from the imitation checkpoint; ``model_config`` holds its path, the bank's and the settings.

    Where learning happens, ``average`` is the running mean of the policy's weights.
    Observations are {row, x, k, chain}; scene tokens are gathered from the memory-mapped bank by row.
    """

    def setup(self) -> None:
        """Builds planner and, where learning happens, critic and the frozen imitation planner."""
        settings = self.model_config
        self.bank = TokenBank.open(settings["bank"])
        self.chain = load_chain(
            settings["policy"],
            perception_hash=self.bank.perception_hash,
            sigma_floor_m=settings["sigma_floor_m"],
        )
        self.seed = settings["seed"]
        self.clones = settings["behaviour_cloning"] > 0
        if not self.inference_only:
            self.average = running_mean(self.chain, settings["average"])
            self.critic = SceneCritic(self.bank.layout)
            if self.clones:
                self.imitation = copy.deepcopy(self.chain).requires_grad_(False)

    def get_non_inference_attributes(self) -> list[str]:
        """What env runners do not need."""
        return ["critic", "average", "imitation"] if self.clones else ["critic", "average"]

    def get_exploration_action_dist_cls(self) -> Any:
        """All three distributions are the same diagonal Gaussian."""
        return TorchDiagGaussian

    get_inference_action_dist_cls = get_train_action_dist_cls = get_exploration_action_dist_cls

    def tokens(self, rows: Tensor) -> Tensor:
        """Packed scene tokens (B, N, D) of bank rows."""
        return torch.from_numpy(self.bank.tokens(rows.cpu().numpy())).to(rows.device)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self._gaussian(self._means(self.chain, batch[Columns.OBS]), batch)}

    def _forward_exploration(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        """As at inference, with the step's own noise: the same chain whoever samples it."""
        parameters = self._gaussian(self._means(self.chain, batch[Columns.OBS]), batch)
        mean, log_std = parameters.chunk(2, dim=-1)
        actions = mean + log_std.exp() * self._noise(batch[Columns.OBS])
        return {
            Columns.ACTION_DIST_INPUTS: parameters,
            Columns.ACTIONS: actions,
            Columns.ACTION_LOGP: step_log_density(actions, mean, log_std),
        }

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        outputs = self._forward(batch)
        if self.clones:
            with torch.no_grad():
                outputs[CLONED_MEAN] = self._means(self.imitation, batch[Columns.OBS])
        return outputs

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """(N,) values; one forward pass a scene, whatever the number of its rows."""
        del embeddings
        rows, inverse = torch.unique(batch[Columns.OBS]["row"][:, 0].long(), return_inverse=True)
        values: Tensor = self.critic(self.tokens(rows))[inverse]
        return values

    def _gaussian(self, mean: Tensor, batch: dict[str, Any]) -> Tensor:
        sigma = self.chain.sigma[_steps(batch[Columns.OBS])]
        return torch.cat([mean, sigma.log()[:, None].expand_as(mean)], dim=-1)

    def _means(self, chain: DenoisingChain, observation: dict[str, Tensor]) -> Tensor:
        """(N, 24) means of the next states; rows of one scene that stand together share its keys."""
        rows, counts = torch.unique_consecutive(observation["row"][:, 0].long(), return_counts=True)
        x, step = observation["x"], _steps(observation)
        if bool((counts == counts[0]).all()):
            keys = chain.planner.scene_keys(self.tokens(rows))
            shape = (len(rows), int(counts[0]))
            return chain.mean(x.reshape(*shape, -1), step.reshape(shape), keys).flatten(0, 1)
        scenes, inverse = torch.unique(observation["row"][:, 0].long(), return_inverse=True)
        keys = chain.planner.scene_keys(self.tokens(scenes)).take(inverse)
        return chain.mean(x[:, None], step[:, None], keys)[:, 0]

    def _noise(self, observation: dict[str, Tensor]) -> Tensor:
        """(N, 24) the noise that belongs to each chain's step."""
        chains, step = observation["chain"].cpu().numpy(), _steps(observation).cpu().numpy()
        steps, size = self.chain.steps, observation["x"].shape[-1]
        noise = np.empty((len(chains), size), np.float32)
        for iteration in np.unique(chains[:, 0]):
            here = np.flatnonzero(chains[:, 0] == iteration)
            drawn = chain_noise(self.seed, int(iteration), chains[here, 1], steps, size)
            noise[here] = drawn[np.arange(len(here)), steps + 1 - step[here]]
        return torch.from_numpy(noise).to(observation["x"].device)


def scene_keys_of(module: ChainModule, rows: Tensor) -> SceneKeys:
    """Keys of bank rows for the sampler of whole chains."""
    keys: SceneKeys = module.chain.planner.scene_keys(module.tokens(rows))
    return keys


def _steps(observation: dict[str, Tensor]) -> Tensor:
    """(N,) k; RLlib shows the module terminal observations too (k = 0), whose output nobody uses."""
    return observation["k"][:, 0].long().clamp(min=1)
