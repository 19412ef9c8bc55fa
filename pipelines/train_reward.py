"""Cluster entry of the stage `train-reward`: `python -m pipelines.train_reward CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("train-reward", __name__)
