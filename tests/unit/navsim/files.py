"""Submissions to write, break and compare."""

import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from irl_vla.geometry import Floats
from irl_vla.navsim.submission import Header, SplitTokens

HEADER = Header("Team", "A. Author, B. Author", "a@b.org", "Institute", "Switzerland")
FIRST = ("0123456789abcdef", "123456789abcdef0", "23456789abcdef01")
SECOND = ("0123456789abcdef0", "123456789abcdef01")
ONE_STAGE = SplitTokens(FIRST, None)
TWO_STAGE = SplitTokens(FIRST, SECOND)


def plans(*tokens: str) -> dict[str, Floats]:
    """Straight on, a little faster from token to token."""
    return {
        token: np.stack([speed * np.arange(1, 9), np.zeros(8), np.zeros(8)], axis=1)
        for speed, token in enumerate(tokens, start=1)
    }


def disassembled_names(data: bytes) -> set[str]:
    """Globals of a pickle by its opcodes, without running it: the two strings before each STACK_GLOBAL."""
    memo: dict[Any, Any] = {}
    recent: list[Any] = []
    names = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = recent[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            recent.append(memo[argument])
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(recent[-2:]))
            recent.append(None)
        elif opcode.name == "GLOBAL":
            names.add(str(argument).replace(" ", "."))
            recent.append(None)
        else:
            recent.append(argument if isinstance(argument, str) else None)
    return names


def dump(path: Path, content: Any, protocol: int = 4) -> Path:
    """Writes anything with the plain pickler of this Python."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path
