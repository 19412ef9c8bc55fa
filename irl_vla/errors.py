"""The errors that this project raises on bad input.

Every message says what was expected, what was found, where, and what to do. Programming errors
(wrong shapes inside the project, broken invariants) stay ordinary Python exceptions.
"""


class IrlVlaError(Exception):
    """Root of all errors raised on purpose; entry points print it without a traceback."""


class ConfigError(IrlVlaError):
    """A configuration file or override is wrong: names the key, what it takes and the nearest known key."""


class LogFormatError(IrlVlaError):
    """A log, sensor or label file breaks the format: names file, frame and key."""


class MapError(IrlVlaError):
    """A map file lacks a layer, a column or an id: names file, layer and id."""


class SceneError(IrlVlaError):
    """One scene cannot be used (no route, plan not finite, ...): names the token."""


class CheckpointError(IrlVlaError):
    """A checkpoint, token bank, label set or record does not fit: names path, expected and found."""


class ClusterError(IrlVlaError):
    """Ray cannot be reached or lost what a stage needs: names the address and the remedy."""


class StorageError(IrlVlaError):
    """A path or URI cannot be read or written: names it, the cause and the remedy."""


class InstallationError(IrlVlaError):
    """A part of the installation that can be left out is needed and missing: names it and the command."""
