"""Cluster entry of the stage `generate`: `python -m pipelines.generate CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("generate", sys.argv[1:]))
