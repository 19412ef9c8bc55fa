"""Cluster entry of the stage `sweep`: `python -m pipelines.sweep CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("sweep", sys.argv[1:]))
