"""The stages of an experiment as functions, and the folders that they fill."""
