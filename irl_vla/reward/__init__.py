"""Proposals, labels, the reward world model, reward weights and backends."""
