"""Cluster entry of the stage `evaluate`: `python -m pipelines.evaluate CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("evaluate", sys.argv[1:]))
