"""Text in and out of the language model: tokeniser, instructions, and the closed set of meta-action answers.

Built on ``tokenizers`` alone, so that data workers need not import the model libraries.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from irl_vla.errors import ConfigError
from irl_vla.policy.config import LanguageConfig

PAD_TEXT, END_TEXT = "<pad>", "<end>"
PAD_ID, END_ID = 0, 1  # of the tokeniser trained here


def answer_texts(config: LanguageConfig) -> tuple[str, ...]:
    """All answers; the one of speed action ``s`` and path action ``p`` has index ``s * len(path_actions) + p``."""
    return tuple(f"speed: {speed}, path: {path}" for speed, path in product(config.speed_actions, config.path_actions))


@lru_cache(maxsize=8)
def build_tokenizer(config: LanguageConfig) -> Tokenizer:
    """The tokeniser of a configuration: the pretrained model's, or a byte-level BPE trained on the spot.

    Training is deterministic, so that equal configurations give equal tokenisers in every process.

    Raises:
        ConfigError: if ``model_path`` holds no readable ``tokenizer.json``.
    """
    if config.model_path is not None:
        path = config.model_path / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(
                f"{path}: expected the pretrained tokeniser in the fast format, found no such file; save it there with "
                "transformers' save_pretrained, or leave language.model_path empty to train a small model"
            )
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[PAD_TEXT, END_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((*answer_texts(config), *config.corpus), trainer)
    return tokenizer


def encode_instruction(text: str, config: LanguageConfig) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Token ids and mask of an instruction, each (max_instruction_tokens,), padded on the right.

    Raises:
        ConfigError: if the instruction is longer than that.
    """
    found = build_tokenizer(config).encode(text, add_special_tokens=False).ids
    size = config.max_instruction_tokens
    if len(found) > size:
        raise ConfigError(
            f"instruction {text!r}: expected at most {size} tokens, found {len(found)}; "
            "raise language.max_instruction_tokens or add the phrase to language.corpus"
        )
    ids = np.full(size, PAD_ID, np.int32)
    ids[: len(found)] = found
    return ids, np.arange(size) < len(found)


def encode_answers(config: LanguageConfig, end_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids and mask of all answers, each (A, T); every answer closes with ``end_id``, padding repeats it."""
    tokenizer = build_tokenizer(config)
    encoded = [[*tokenizer.encode(text, add_special_tokens=False).ids, end_id] for text in answer_texts(config)]
    size = max(map(len, encoded))
    ids = np.array([answer + [end_id] * (size - len(answer)) for answer in encoded], np.int64)
    mask = np.arange(size) < np.array([len(answer) for answer in encoded])[:, None]
    return ids, mask
