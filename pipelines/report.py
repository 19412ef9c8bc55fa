"""Cluster entry of the stage `report`: `python -m pipelines.report CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("report", sys.argv[1:]))
