"""Semantic reasoning: cameras and an instruction through a language model to meta tokens and a meta-action answer.

The language model reads ``adapted vision | instruction | query slots | answer``. Attention is causal, so the hidden
states of the query slots, which become the meta tokens, cannot depend on the answer that is given in training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, ViTConfig, ViTModel

from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.policy.batch import IGNORED, ObservationBatch
from irl_vla.policy.config import EncoderConfig, LanguageConfig
from irl_vla.policy.instruction import END_ID, PAD_ID, build_tokenizer, encode_answers
from irl_vla.policy.perception.layers import mlp


class SemanticOutput(NamedTuple):
    """What the language model made of a batch.

    Attributes:
        meta: (B, n, D) meta tokens.
        answer_logits: (B, T, vocabulary) next-token logits at the answer's positions, None if no answer was given.
    """

    meta: Tensor
    answer_logits: Tensor | None


@dataclass(frozen=True, slots=True)
class AnswerAccuracy:
    """Share of scenes answered right, and what always answering the most frequent class would reach."""

    speed: float
    path: float
    both: float
    majority_speed: float
    majority_path: float
    majority_both: float


class VisionEncoder(nn.Module):
    """A small ViT, or a pretrained transformers vision model from a local folder; both trained on."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        semantic, cameras = config.semantic, config.cameras
        self.pretrained = semantic.vision_model_path is not None
        if semantic.vision_model_path is not None:
            _require_model(semantic.vision_model_path, "semantic.vision_model_path")
            model = AutoModel.from_pretrained(str(semantic.vision_model_path), local_files_only=True)
            self.model: Any = getattr(model, "vision_model", model)
        else:
            self.model = ViTModel(
                ViTConfig(
                    image_size=(cameras.height_px, cameras.width_px),
                    patch_size=(semantic.patch_height_px, semantic.patch_width_px),
                    hidden_size=semantic.vision_width,
                    num_hidden_layers=semantic.vision_layers,
                    num_attention_heads=semantic.vision_heads,
                    intermediate_size=4 * semantic.vision_width,
                    hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0,
                ),
                add_pooling_layer=False,
            )
        self.width = int(self.model.config.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) in [0, 1] to (N, patches, width)."""
        # Pretrained position embeddings belong to another image size.
        options = {"interpolate_pos_encoding": True} if self.pretrained else {}
        states: Tensor = self.model(pixel_values=2 * images - 1, **options).last_hidden_state
        return states


class DrivingAdaptor(nn.Module):
    """Condenses the vision tokens of all cameras into few language-model inputs by learned queries."""

    def __init__(self, config: EncoderConfig, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.semantic.adaptor_queries, vision_width))
        self.camera = nn.Parameter(0.02 * torch.randn(len(config.cameras.names), vision_width))
        # Attended to beside the cameras, so that attention stays defined when all of them are missing.
        self.nothing = nn.Parameter(torch.zeros(1, 1, vision_width))
        self.norm = nn.LayerNorm(vision_width)
        self.keys_values = nn.Linear(vision_width, 2 * vision_width)
        self.out = mlp(vision_width, language_width, language_width)

    def forward(self, tokens: Tensor, camera_valid: Tensor) -> Tensor:
        """Vision tokens (B, C, n, W) and camera mask (B, C) to (B, queries, language width)."""
        count, _, patches, _ = tokens.shape
        tokens = (tokens + self.camera[:, None]).flatten(1, 2)
        tokens = self.norm(torch.cat([self.nothing.expand(count, -1, -1), tokens], dim=1))
        seen = functional.pad(camera_valid.repeat_interleave(patches, dim=1), (1, 0), value=True)
        keys, values = self.keys_values(tokens).chunk(2, dim=-1)
        queries = self.queries.expand(count, -1, -1)
        pooled = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen[:, None])
        adapted: Tensor = self.out(pooled)
        return adapted


class SemanticReasoning(nn.Module):
    """Vision encoder, driving vision adaptor and language model.

    The tokeniser travels with the weights (as extra state): weights that were trained with another one are refused.
    """

    answer_ids: Tensor
    answer_mask: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.language_config = config.semantic.language
        self.language = build_language_model(self.language_config)
        end_id = END_ID if self.language_config.model_path is None else _end_id(self.language, self.language_config)
        width = int(self.language.config.hidden_size)
        self.vision = VisionEncoder(config)
        self.adaptor = DrivingAdaptor(config, self.vision.width, width)
        self.slots = nn.Parameter(0.02 * torch.randn(config.semantic.meta_tokens, width))
        self.meta = mlp(width, width, config.width)
        ids, mask = encode_answers(self.language_config, end_id)
        self.register_buffer("answer_ids", torch.from_numpy(ids), persistent=False)
        self.register_buffer("answer_mask", torch.from_numpy(mask), persistent=False)

    def forward(self, batch: ObservationBatch, answers: Tensor | None = None) -> SemanticOutput:
        """Meta tokens and, if answer indices (B,) are given, teacher-forced answer logits."""
        inputs, mask = self._prefix(batch)
        prefix = inputs.shape[1]
        if answers is not None:
            # The last answer token predicts nothing, so it is not read.
            given = self.answer_ids[answers][:, :-1]
            inputs = torch.cat([inputs, self.language.get_input_embeddings()(given)], dim=1)
            mask = torch.cat([mask, torch.ones_like(given, dtype=torch.bool)], dim=1)
        states = self._read(inputs, mask).last_hidden_state
        meta = self.meta(states[:, prefix - len(self.slots) : prefix])
        logits = None if answers is None else self.language.get_output_embeddings()(states[:, prefix - 1 :])
        return SemanticOutput(meta=meta, answer_logits=logits)

    def answer_loss(self, logits: Tensor, answers: Tensor, known: Tensor) -> Tensor:
        """Mean cross-entropy of the answer tokens of scenes whose answer is known (B,); 0 if none is."""
        loss = functional.cross_entropy(logits.transpose(1, 2), self.answer_ids[answers], reduction="none")
        counted = (self.answer_mask[answers] & known[:, None]).to(loss.dtype)
        return (loss * counted).sum() / counted.sum().clamp_min(1)

    @torch.no_grad()
    def predict_answers(self, batch: ObservationBatch) -> Tensor:
        """Answer indices (B,) by greedy decoding among the closed set of answers."""
        inputs, mask = self._prefix(batch)
        cache: Any = None
        possible = torch.ones(len(batch), len(self.answer_ids), dtype=torch.bool, device=mask.device)
        for step in range(self.answer_ids.shape[1]):
            read = self._read(inputs, mask, cache, use_cache=True)
            logits = self.language.get_output_embeddings()(read.last_hidden_state[:, -1])
            candidates = self.answer_ids[:, step]
            best = logits[:, candidates].masked_fill(~possible, -torch.inf).argmax(dim=1)
            chosen = candidates[best]
            possible &= candidates == chosen[:, None]
            cache, inputs = read.past_key_values, self.language.get_input_embeddings()(chosen[:, None])
            mask = functional.pad(mask, (0, 1), value=True)
        return possible.to(torch.int64).argmax(dim=1)

    def get_extra_state(self) -> Tensor:
        """The tokeniser's JSON text as bytes."""
        text = build_tokenizer(self.language_config).to_str()
        return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())

    def set_extra_state(self, state: Tensor) -> None:
        """Checks that the weights were trained with this tokeniser.

        Raises:
            CheckpointError: if they were not.
        """
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise CheckpointError(
                "semantic reasoning: expected weights trained with the tokeniser of this configuration, found another "
                "tokeniser; use the checkpoint's own semantic.language section (corpus, answers, vocabulary_size)"
            )

    def _prefix(self, batch: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Language-model inputs (B, S, W) up to and with the query slots, and their mask (B, S)."""
        count = len(batch)
        vision = self.vision(batch.images.flatten(0, 1)).unflatten(0, batch.camera_valid.shape)
        adapted = self.adaptor(vision, batch.camera_valid)
        text = self.language.get_input_embeddings()(batch.instruction_ids)
        slots = self.slots.expand(count, -1, -1)
        always = batch.instruction_mask.new_ones(count, adapted.shape[1] + slots.shape[1])
        mask = torch.cat([always[:, : adapted.shape[1]], batch.instruction_mask, always[:, adapted.shape[1] :]], dim=1)
        return torch.cat([adapted, text, slots], dim=1), mask

    def _read(self, inputs: Tensor, mask: Tensor, cache: Any = None, use_cache: bool = False) -> Any:
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -inputs.shape[1] :]
        return self.language.get_decoder()(
            inputs_embeds=inputs,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=use_cache,
        )


def build_language_model(config: LanguageConfig) -> Any:
    """A small causal language model with random weights, or a local pretrained one with trainable LoRA adapters.

    Raises:
        ConfigError: if ``model_path`` holds no model.
    """
    if config.model_path is not None:
        _require_model(config.model_path, "language.model_path")
        model = AutoModelForCausalLM.from_pretrained(str(config.model_path), local_files_only=True, dtype=torch.float32)
        adapters = peft.LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear")
        return peft.inject_adapter_in_model(adapters, model)
    settings = AutoConfig.for_model(
        config.family,
        vocab_size=build_tokenizer(config).get_vocab_size(),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        eos_token_id=END_ID,
    )
    return AutoModelForCausalLM.from_config(settings)


def answer_indices(meta_action: Tensor, config: LanguageConfig) -> tuple[Tensor, Tensor]:
    """Index of the answer (B,) of meta-actions (B, 2), and whether it is known; unknown ones get index 0."""
    known = (meta_action != IGNORED).all(dim=1)
    index = meta_action[:, 0] * len(config.path_actions) + meta_action[:, 1]
    return index.where(known, torch.zeros_like(index)), known


def answer_accuracy(predicted: Tensor, actual: Tensor) -> AnswerAccuracy:
    """Compares meta-actions (N, 2) with the true ones; rows whose truth is unknown are left out.

    Raises:
        ValueError: if no row is left.
    """
    known = (actual != IGNORED).all(dim=1)
    if not known.any():
        raise ValueError("answer accuracy needs at least one scene with a known meta-action")
    predicted, actual = predicted[known], actual[known]
    hits = predicted == actual
    pairs = torch.unique(actual, dim=0, return_counts=True)[1]
    return AnswerAccuracy(
        speed=hits[:, 0].double().mean().item(),
        path=hits[:, 1].double().mean().item(),
        both=hits.all(dim=1).double().mean().item(),
        majority_speed=actual[:, 0].bincount().max().item() / len(actual),
        majority_path=actual[:, 1].bincount().max().item() / len(actual),
        majority_both=pairs.max().item() / len(actual),
    )


def _require_model(path: Path, key: str) -> None:
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"{path}: expected a local transformers model (config.json and weights), found none; "
            f"download it once with transformers' save_pretrained, or leave {key} empty to train a small one"
        )


def _end_id(model: Any, config: LanguageConfig) -> int:
    end = model.config.eos_token_id
    if isinstance(end, list):
        end = end[0] if end else None
    if end is None:
        raise ConfigError(f"{config.model_path}: expected eos_token_id in the model's config.json, found none; add it")
    return int(end)
