"""Ways to break bytes and decoded structures; all drawn from a passed generator."""

import copy

import numpy as np


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def _endless():
    value = []
    value.append(value)
    return value


#: Values that no reader should stumble over, wherever they turn up.
HOSTILE = (
    *(lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 7, lambda: 2**31, lambda: 2**63, lambda: -(2**70)),
    *(lambda: 10**400, lambda: 1 << 20_000, lambda: 0.5, lambda: 1e308, lambda: -1e200, lambda: float("nan")),
    *(lambda: float("inf"), lambda: "", lambda: "a", lambda: "5", lambda: "../../etc/passwd", lambda: "/etc/passwd"),
    *(lambda: "x" * 5000, lambda: "a/" * 3000, lambda: "\0", lambda: "\udc80", lambda: "\u202e\u00fc", lambda: "a\\b"),
    *(lambda: b"bytes", list, dict, lambda: (), lambda: {1}, lambda: frozenset("ab"), lambda: [[1], [1, 2]]),
    *(lambda: _nested(200), lambda: _nested(70), _endless, lambda: [None], lambda: ["\udc80"], lambda: [10**400]),
    *(
        lambda: {"a": 1},
        lambda: {1: 2},
        lambda: {None: {}},
        lambda: {"CAM_F0": 3},
        lambda: [(1, 2, 3)],
    ),
    *(lambda: [(1e308, 1)], lambda: [("5", 1)], lambda: [(None, None)]),
    *(lambda: np.zeros(0), lambda: np.zeros((3, 3)), lambda: np.zeros((0, 7)), lambda: np.full((1, 7), 1e308)),
    *(lambda: np.full(4, np.nan), lambda: np.full(4, 1e300), lambda: np.array("x"), lambda: np.array(["a", "b"])),
    *(lambda: np.array([1 + 2j]), lambda: np.array([None, 1], object), lambda: np.array(["2020"], "M8[D]")),
    *(lambda: np.zeros(2, [("a", "f4")]), lambda: np.float32("nan"), lambda: np.int64(-5), lambda: np.bool_(True)),
    *(lambda: np.zeros((2,) * 20, np.uint8), lambda: np.array([b"x"]), lambda: np.array(3.0)),
)


def hostile(generator):
    return HOSTILE[generator.integers(len(HOSTILE))]()


def mutated_bytes(data, generator):
    """Half of the time a few bytes changed in place, else one to four flips, cuts, copies or extreme numbers."""
    result = bytearray(data)
    if generator.random() < 0.5:
        for place in generator.integers(0, len(result), generator.integers(1, 4)):
            result[place] = generator.integers(256)
        return bytes(result)
    for _ in range(generator.integers(1, 5)):
        size = max(len(result), 1)
        start = int(generator.integers(size))
        end = min(start + int(generator.integers(1, 64)), len(result))
        match generator.integers(7):
            case 0:
                for place in generator.integers(0, size, generator.integers(1, 9)):
                    result[place : place + 1] = bytes([generator.integers(256)])
            case 1:
                result[start:end] = generator.bytes(end - start)
            case 2:
                del result[start:]
            case 3:
                del result[start:end]
            case 4:
                result[start:start] = result[start:end]
            case 5:
                result[start : start + 4] = b"\xff\xff\xff\x7f" if generator.random() < 0.5 else b"\xff" * 4
            case 6:
                other = int(generator.integers(size))
                result[start:end] = result[other : other + end - start]
    return bytes(result)


def mutated_structure(value, generator):
    """A deep copy with one to three nodes replaced, removed or repeated."""
    root = [copy.deepcopy(value)]
    for _ in range(generator.integers(1, 4)):
        parent, key = root, 0
        while isinstance(parent[key], (dict, list)) and len(parent[key]) and generator.random() < 0.8:
            parent = parent[key]
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            key = keys[generator.integers(len(keys))]
        _change(parent, key, generator)
    return root[0]


def _change(parent, key, generator):
    node = parent[key]
    choice = generator.random()
    if choice < 0.15 and isinstance(parent, dict):
        del parent[key]
    elif choice < 0.3 and isinstance(parent, dict):
        parent[generator.choice(["token", "extra", "CAM_X", ""])] = node
    elif choice < 0.3:
        parent.append(node)
    elif choice < 0.6 and isinstance(node, np.ndarray) and node.size:
        changed = node.astype(object) if generator.random() < 0.3 else node.copy()
        try:
            changed.flat[generator.integers(node.size)] = hostile(generator)
        except (TypeError, ValueError, OverflowError, UnicodeEncodeError):
            changed = changed.reshape(-1)[: generator.integers(node.size)]
        parent[key] = changed
    else:
        parent[key] = hostile(generator)
