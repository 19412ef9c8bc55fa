"""Losses of the first steps of both trainings, at a fixed seed: a refactoring that changes them shows itself."""
