"""Observation to scene tokens to plans: encoders, planner, denoising chain, token bank, deployment."""
