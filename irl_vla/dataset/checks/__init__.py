"""The linter of a data set: is it as the format says, and what would each stage lack."""
