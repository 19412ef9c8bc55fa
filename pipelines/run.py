"""Cluster entry of the stage `run`: `python -m pipelines.run CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("run", sys.argv[1:]))
