"""Recorded outputs of the official evaluator, and how this scorer compares with them."""
