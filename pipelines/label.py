"""Cluster entry of the stage `label`: `python -m pipelines.label CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("label", sys.argv[1:]))
