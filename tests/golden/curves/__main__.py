"""Makes the golden curves anew: ``python -m tests.golden.curves --write``; without it, prints them."""

import json
import sys
import tempfile
from pathlib import Path

from tests.golden.curves.curves import FOLDER, imitation_curve, reward_curve

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        curves = {"imitation": imitation_curve(Path(folder)), "reward": reward_curve(Path(folder))}
    for name, curve in curves.items():
        text = json.dumps(curve, indent=1) + "\n"
        if "--write" in sys.argv[1:]:
            (FOLDER / f"{name}.json").write_text(text)
        sys.stdout.write(f"{name}: {text}")
