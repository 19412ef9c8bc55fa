"""PPO over denoising chains on RLlib, its control, and the Tune sweep of reward weights."""
