"""Reads, writes and caches nuPlan maps."""
