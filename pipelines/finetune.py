"""Cluster entry of the stage `finetune`: `python -m pipelines.finetune CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("finetune", sys.argv[1:]))
