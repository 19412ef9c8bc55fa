"""Cluster entry of the stage `train-reward`: `python -m pipelines.train_reward CONFIG [key=value ...]`."""

import sys

from irl_vla.stages.run import main

if __name__ == "__main__":
    sys.exit(main("train_reward", sys.argv[1:]))
