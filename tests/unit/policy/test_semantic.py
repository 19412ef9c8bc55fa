"""Tokeniser, answers, meta tokens without leakage, local pretrained models."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTModel

from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.policy.batch import collate
from irl_vla.policy.config import EncoderConfig, LanguageConfig
from irl_vla.policy.instruction import answer_texts, build_tokenizer, encode_answers, encode_instruction
from irl_vla.policy.semantic import SemanticReasoning, answer_accuracy, answer_indices, build_language_model
from tests.unit.policy import scenes

CONFIG = scenes.tiny_config()
LANGUAGE = CONFIG.semantic.language


def make_semantic(config: EncoderConfig = CONFIG) -> SemanticReasoning:
    torch.manual_seed(0)
    return SemanticReasoning(config).eval()


def make_batch(count: int = 3, config: EncoderConfig = CONFIG):
    generator = np.random.default_rng(0)
    return collate([scenes.observation(config, generator) for _ in range(count)], config)


def with_language(**values) -> EncoderConfig:
    return CONFIG.with_overrides({f"semantic.language.{key}": value for key, value in values.items()})


def test_tokeniser_is_lossless_and_compresses_what_it_knows():
    tokenizer = build_tokenizer(LANGUAGE)
    for text in (*answer_texts(LANGUAGE), scenes.QUESTION, "Grüße, 12.7 m/s — unseen"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("speed: decelerate, path: left").ids) == 7
    ids, mask = encode_instruction(
        f"{scenes.QUESTION} The ego vehicle drives at 12.7 m/s. Command: straight.", LANGUAGE
    )
    assert (len(ids), mask.sum()) == (32, 29)


def test_tokeniser_is_the_same_in_another_process():
    program = (
        "from irl_vla.policy.config import LanguageConfig as C; from irl_vla.policy.instruction import build_tokenizer;"
        "import hashlib; print(hashlib.sha256(build_tokenizer(C()).to_str().encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_answers_are_distinct_and_closed_by_the_end():
    ids, mask = encode_answers(LANGUAGE, end_id=1)
    assert len(np.unique(ids, axis=0)) == 20
    assert (ids[np.arange(20), mask.sum(1) - 1] == 1).all()
    assert answer_texts(LANGUAGE)[2 * 5 + 1] == "speed: decelerate, path: left"


def test_answer_index_of_meta_actions():
    index, known = answer_indices(torch.tensor([[2, 1], [-1, -1], [3, 4]]), LANGUAGE)
    assert index.tolist() == [11, 0, 19]
    assert known.tolist() == [True, False, True]


def test_meta_tokens_do_not_see_the_answer():
    semantic, batch = make_semantic(), make_batch()
    first = semantic(batch, torch.tensor([0, 7, 19]))
    second = semantic(batch, torch.tensor([19, 0, 3]))
    assert torch.equal(first.meta, second.meta)
    assert not torch.equal(first.answer_logits, second.answer_logits)
    torch.testing.assert_close(semantic(batch).meta, first.meta, rtol=1e-4, atol=1e-5)


def test_answer_token_is_predicted_before_it_is_seen():
    semantic, batch = make_semantic(), make_batch(1)
    keep, stop = (semantic(batch, torch.tensor([index])).answer_logits for index in (0, 15))
    # "speed: keep ..." and "speed: stop ..." share two tokens, so the first three predictions cannot differ.
    torch.testing.assert_close(keep[:, :3], stop[:, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(keep[:, 3], stop[:, 3], atol=1e-3)


def test_meta_tokens_read_image_and_instruction():
    semantic, batch = make_semantic(), make_batch()
    base = semantic(batch).meta
    darker = semantic(replace(batch, images=batch.images / 2)).meta
    shorter = replace(batch, instruction_mask=batch.instruction_mask & (torch.arange(32) < 5))
    assert not torch.allclose(darker, base, atol=1e-4)
    assert not torch.allclose(semantic(shorter).meta, base, atol=1e-4)


def test_padding_of_the_instruction_has_no_influence():
    semantic, batch = make_semantic(), make_batch()
    noise = torch.where(batch.instruction_mask, batch.instruction_ids, torch.tensor(17))
    assert torch.equal(semantic(replace(batch, instruction_ids=noise)).meta, semantic(batch).meta)


def test_missing_camera_has_no_influence_and_none_at_all_stays_finite():
    semantic, batch = make_semantic(), make_batch()
    valid = torch.tensor([[True, False]] * 3)
    other = batch.images.clone()
    other[:, 1] = torch.rand(other[:, 1].shape)
    seen = semantic(replace(batch, camera_valid=valid)).meta
    torch.testing.assert_close(semantic(replace(batch, camera_valid=valid, images=other)).meta, seen)
    blind = semantic(replace(batch, camera_valid=torch.zeros(3, 2, dtype=torch.bool))).meta
    assert torch.isfinite(blind).all()


def test_greedy_answers_agree_with_teacher_forcing():
    semantic, batch = make_semantic(), make_batch(4)
    with torch.no_grad():
        semantic.language.get_output_embeddings().weight.mul_(20)  # confident, hence not tied by rounding
    answers = semantic.predict_answers(batch)
    ids, logits = semantic.answer_ids, semantic(batch, answers).answer_logits
    for row, answer in enumerate(answers.tolist()):
        possible = torch.ones(20, dtype=torch.bool)
        for step in range(ids.shape[1]):
            allowed = ids[possible, step]
            assert logits[row, step, ids[answer, step]] >= logits[row, step, allowed].max() - 1e-3
            possible &= ids[:, step] == ids[answer, step]


def test_answer_loss_ignores_unknown_answers():
    semantic, batch = make_semantic(), make_batch(2)
    answers = torch.tensor([3, 8])
    logits = semantic(batch, answers).answer_logits
    only_first = semantic.answer_loss(logits, answers, torch.tensor([True, False]))
    torch.testing.assert_close(only_first, semantic.answer_loss(logits[:1], answers[:1], torch.tensor([True])))
    assert semantic.answer_loss(logits, answers, torch.tensor([False, False])) == 0


def test_accuracy_against_the_majority():
    actual = torch.tensor([[0, 0], [0, 0], [0, 1], [3, 0], [-1, -1]])
    predicted = torch.tensor([[0, 0], [0, 1], [0, 1], [3, 0], [2, 2]])
    accuracy = answer_accuracy(predicted, actual)
    assert (accuracy.speed, accuracy.path, accuracy.both) == (1.0, 0.75, 0.75)
    assert (accuracy.majority_speed, accuracy.majority_path, accuracy.majority_both) == (0.75, 0.75, 0.5)
    with pytest.raises(ValueError, match="at least one scene"):
        answer_accuracy(predicted[4:], actual[4:])


def test_demo_language_model_has_a_million_weights():
    model = build_language_model(LanguageConfig())
    assert sum(weight.numel() for weight in model.parameters()) >= 1_000_000


def test_weights_of_another_tokeniser_are_refused():
    state = make_semantic().state_dict()
    make_semantic().load_state_dict(state)
    other = make_semantic(with_language(corpus=("entirely different words",), vocabulary_size=377))
    with pytest.raises(CheckpointError, match="another tokeniser"):
        other.load_state_dict(state, strict=False)


@pytest.fixture
def pretrained_folder(tmp_path):
    tokenizer = build_tokenizer(LANGUAGE)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=48,
            eos_token_id=1,
        )
    )
    model.save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_local_language_model_trains_only_its_adapters(pretrained_folder):
    config = with_language(model_path=pretrained_folder, lora_rank=2)
    semantic = make_semantic(config)
    trained = {name for name, weight in semantic.language.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    output = semantic(make_batch(2, config), torch.tensor([1, 2]))
    assert output.meta.shape == (2, 4, 32)
    semantic.answer_loss(output.answer_logits, torch.tensor([1, 2]), torch.tensor([True, True])).backward()
    gradients = {name: weight.grad for name, weight in semantic.language.named_parameters() if weight.grad is not None}
    assert set(gradients) == trained
    assert semantic.predict_answers(make_batch(2, config)).shape == (2,)


def test_missing_pretrained_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer\.json: expected the pretrained tokeniser"):
        build_tokenizer(LanguageConfig(model_path=tmp_path / "none"))
    with pytest.raises(ConfigError, match="expected a local transformers model"):
        build_language_model(LanguageConfig(model_path=tmp_path))


def test_local_vision_model_of_another_image_size_is_used(tmp_path):
    settings = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    ViTModel(settings, add_pooling_layer=False).save_pretrained(tmp_path)
    config = CONFIG.with_overrides({"semantic.vision_model_path": tmp_path})
    semantic = make_semantic(config)
    assert semantic.vision(torch.zeros(2, 3, 32, 48)).shape == (2, 1 + 4 * 6, 16)
    assert semantic(make_batch(2, config)).meta.shape == (2, 4, 32)
