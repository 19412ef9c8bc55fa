"""Cluster entry of the stage `pretrain`: `python -m pipelines.pretrain CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("pretrain", sys.argv[1:]))
