"""The decoder from plan queries to scene tokens, and the diffusion planner on top of it.

The keys and values of a scene are computed once, whatever the number of proposals and denoising steps; that halves
the cost of sampling chains.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from irl_vla.policy.batch import SceneTokens
from irl_vla.policy.codec import PLAN_SIZE
from irl_vla.policy.planner_config import ChainConfig, DecoderConfig
from irl_vla.policy.token_bank import TokenLayout


class SceneKeys(NamedTuple):
    """Keys and values of scenes, each (layers, 2, B, heads, n, width / heads); ``object`` includes the ego tokens."""

    meta: Tensor
    bev: Tensor
    map: Tensor
    object: Tensor

    def take(self, scenes: Tensor) -> "SceneKeys":
        """Keys of scenes (B',), repeats allowed: many rows of a batch may belong to one scene."""
        return SceneKeys(*(keys.index_select(2, scenes) for keys in self))


class CrossAttention(nn.Module):
    """Norm, attention to tokens of one kind, skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (B, L, D), keys and values (B, heads, n, D / heads), to (B, L, D)."""
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(query, keys, values)
        result: Tensor = x + self.out(attended.transpose(1, 2).flatten(2))
        return result


class PlanFeedForward(nn.Module):
    """Norm, feed-forward, skip, over all queries of a plan together.

    The paper's figure has no attention among queries; this is where those of one plan exchange what they found. With
    one query a plan it is the figure's feed-forward.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size = config.queries * config.width
        self.norm = nn.LayerNorm(size)
        self.net = nn.Sequential(nn.Linear(size, config.feedforward), nn.GELU(), nn.Linear(config.feedforward, size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, Q, D) to the same shape."""
        flat = x.flatten(2)
        result: Tensor = (flat + self.net(self.norm(flat))).view_as(x)
        return result


class DecoderLayer(nn.Module):
    """Attention to meta, BEV, map and object tokens in turn, then feed-forward; each after a norm, with a skip.

    As in the paper's figure of the unified diffusion policy. The figure leaves open where the command encoder enters:
    here its tokens stand among the object tokens.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(CrossAttention(config.width, config.heads) for _ in SceneKeys._fields)
        self.feed_forward = PlanFeedForward(config)

    def forward(self, queries: Tensor, keys: SceneKeys, layer: int) -> Tensor:
        """Queries (B, P, Q, D); the P * Q queries of a scene share its keys."""
        x = queries.flatten(1, 2)
        for attention, kind in zip(self.attentions, keys, strict=True):
            x = attention(x, kind[layer, 0], kind[layer, 1])
        result: Tensor = self.feed_forward(x.view_as(queries))
        return result


class SceneDecoder(nn.Module):
    """N decoder layers over the queries of plans. No plan sees another plan of its scene."""

    def __init__(self, config: DecoderConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        self.keys_values = nn.ModuleDict(
            {kind: nn.Linear(layout.width, config.layers * 2 * config.width) for kind in SceneKeys._fields}
        )
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.queries * config.width)

    def scene_keys(self, tokens: SceneTokens | Tensor) -> SceneKeys:
        """Keys and values of scenes, from tokens or packed tokens (B, N, D) of any floating type."""
        kinds = tokens if isinstance(tokens, SceneTokens) else unpack_tokens(tokens, self.layout)
        sources = {
            "meta": kinds.meta,
            "bev": kinds.bev,
            "map": kinds.map,
            "object": torch.cat([kinds.object, kinds.ego], dim=1),
        }
        return SceneKeys(**{kind: self._project(kind, source) for kind, source in sources.items()})

    def forward(self, queries: Tensor, keys: SceneKeys) -> Tensor:
        """Plan queries (B, P, Q, D) to normalised plan features (B, P, Q * D)."""
        for index, layer in enumerate(self.layers):
            queries = layer(queries, keys, index)
        features: Tensor = self.norm(queries.flatten(2))
        return features

    def _project(self, kind: str, tokens: Tensor) -> Tensor:
        config, linear = self.config, self.keys_values[kind]
        projected: Tensor = linear(tokens.to(torch.float32))
        shaped = projected.view(*tokens.shape[:2], config.layers, 2, config.heads, config.width // config.heads)
        return shaped.permute(2, 3, 0, 4, 1, 5).contiguous()


class DiffusionPlanner(nn.Module):
    """Predicts the code of the clean plan from a noised one."""

    def __init__(self, decoder: DecoderConfig, chain: ChainConfig, layout: TokenLayout) -> None:
        super().__init__()
        size = decoder.queries * decoder.width
        self.queries = decoder.queries
        self.decoder = SceneDecoder(decoder, layout)
        self.noised = nn.Linear(PLAN_SIZE, size)
        # One vector a denoising step: the planner is trained at the K noise levels that it is used at.
        self.step = nn.Embedding(chain.steps + 1, size)
        self.head = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, PLAN_SIZE))

    def scene_keys(self, tokens: SceneTokens | Tensor) -> SceneKeys:
        """Keys and values of scenes; see :meth:`SceneDecoder.scene_keys`."""
        return self.decoder.scene_keys(tokens)

    def predict(self, noised: Tensor, step: Tensor, keys: SceneKeys) -> Tensor:
        """Code of the clean plan.

        Args:
            noised: (B, P, 24) x_k.
            step: (B, P) int64 k in 1..K.
            keys: of B scenes.

        Returns:
            (B, P, 24).
        """
        queries = (self.noised(noised) + self.step(step)).unflatten(-1, (self.queries, -1))
        code: Tensor = self.head(self.decoder(queries, keys))
        return code

    def forward(self, noised: Tensor, step: Tensor, keys: SceneKeys) -> Tensor:
        """As :meth:`predict`."""
        return self.predict(noised, step, keys)


def pack_tokens(tokens: SceneTokens) -> Tensor:
    """(B, N, D), the kinds in the order of ``SceneTokens``."""
    return torch.cat(tuple(tokens), dim=1)


def unpack_tokens(packed: Tensor, layout: TokenLayout) -> SceneTokens:
    """Inverse of :func:`pack_tokens`, as views."""
    return SceneTokens(**{kind: packed[:, part] for kind, part in layout.slices.items()})
