import os
import subprocess
import sys
from pathlib import Path

import pytest

from irl_vla.ledger.files import atomic_path, content_hash, write_text


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise TypeError


def test_atomic_path_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(TypeError):
        write_half(tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


LIMITED = """
import errno, resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, safetensors.torch, torch
from irl_vla.ledger.files import atomic_path

resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # a small disk
big, folder = np.arange(100_000.0), Path(sys.argv[1])
writers = {
    "numpy": lambda path: np.save(path.open("wb"), big),
    "text": lambda path: path.write_text("x" * 100_000),
    "parquet": lambda path: pq.write_table(pa.table({"a": big}), path),
    "safetensors": lambda path: safetensors.torch.save_file({"a": torch.from_numpy(big)}, path),
    "torch": lambda path: torch.save(torch.from_numpy(big), path),
}
for name, write in writers.items():
    try:
        with atomic_path(folder / name) as temporary:
            write(temporary)
    except OSError as error:
        assert (error.errno, error.filename) == (errno.EFBIG, str(folder / name)), (name, error)
        print(name)
"""


def test_a_disk_that_takes_no_more_is_named_whatever_library_writes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, tmp_path]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["numpy", "text", "parquet", "safetensors", "torch"], done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


def test_content_hash_ignores_key_order_only() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


TEXTS = r"""
import sys, warnings
from pathlib import Path
from irl_vla.ledger.files import write_text
from irl_vla.ledger.owner import owned, read_owner
from irl_vla.ledger.storage import Location

warnings.simplefilter("error", EncodingWarning)
folder = Path(sys.argv[1])
write_text(folder / "a", "\u00fc")
(Location.of(folder) / "b").write_text("\u00fc")
print(ascii((Location.of(folder) / "a").read_text()))
with owned(folder, "\u00fc"):
    print(ascii(read_owner(folder).what))
"""


def test_texts_are_utf_8_whatever_the_language_of_the_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "utf8=0", "-X", "warn_default_encoding", "-c", TEXTS, tmp_path]
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=plain)
    assert done.stdout.split() == ["'\\xfc'", "'\\xfc'"], done.stderr[-2000:]
    assert [(tmp_path / name).read_bytes() for name in "ab"] == ["\u00fc".encode()] * 2
