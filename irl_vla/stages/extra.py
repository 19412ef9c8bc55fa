"""What stages need beyond scoring, reading and checking: the packages of the extra ``train``."""

from importlib.util import find_spec
from typing import Final

from irl_vla.errors import InstallationError

#: Modules of the packages that the extra `train` of pyproject.toml brings.
TRAIN_MODULES: Final = (
    "diffusers",
    "mlflow",
    "optuna",
    "peft",
    "ray",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
REMEDY: Final = "pip install 'irl-vla[train]'"


def missing_modules() -> list[str]:
    """Modules of the extra that are not installed; none is imported."""
    return [name for name in TRAIN_MODULES if not _is_installed(name)]


def require_train_extra(what: str) -> None:
    """Makes sure that the extra is installed, before any work.

    Args:
        what: is about to run, e.g. "irl-vla pretrain".

    Raises:
        InstallationError: naming what is missing.
    """
    missing = missing_modules()
    if missing:
        raise InstallationError(f"{what}: expected the packages for training, found no {', '.join(missing)}; {REMEDY}")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # raised by import hooks that forbid a module
        return False
