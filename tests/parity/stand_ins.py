"""Empty modules in place of libraries that the devkit imports on the way to its scorer and never uses there.

Everything that such a module is asked for is an inert class. It may be a base class, a decorator with or without
arguments, an annotation, a default value or an exception to be caught; an instance of it can do nothing.

Only for a process of its own: what is once imported this way stays.
"""

import sys
from abc import ABCMeta
from collections.abc import Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

#: With all of these replaced, the unmodified devkit gives the scores that it gives with its own pinned versions.
#: omegaconf comes with hydra and is left out with it.
DEVKIT_LIBRARIES: Final = (
    "aioboto3",
    "bokeh",
    "boto3",
    "botocore",
    "casadi",
    "descartes",
    "guppy",
    "hydra",
    "nest_asyncio",
    "omegaconf",
    "pytorch_lightning",
    "rasterio",
    "ray",
    "retry",
    "selenium",
    "torch",
    "torchvision",
    "tornado",
)
_MARK: Final = "_is_inert"


def install(libraries: Collection[str]) -> None:
    """Makes imports of these libraries and of anything below them give empty modules.

    Raises:
        RuntimeError: if one of them is imported already, since then both versions would be in use.
    """
    imported = sorted(set(libraries) & sys.modules.keys())
    if imported:
        raise RuntimeError(f"expected stand-ins before the libraries themselves, found imported: {', '.join(imported)}")
    sys.meta_path.insert(0, _Finder(frozenset(libraries)))


class _InertType(ABCMeta):
    """Type of inert classes and of what derives from them; ABCMeta, since abstract classes have them as bases."""

    def __getattr__(cls, name: str) -> Any:
        if _MARK not in cls.__dict__ or _is_special(name):
            raise AttributeError(name)
        return _inert(f"{cls.__name__}.{name}")

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        if _MARK not in cls.__dict__:
            return super().__call__(*arguments, **options)
        return arguments[0] if len(arguments) == 1 and not options and _may_be_decorated(arguments[0]) else cls

    def __getitem__(cls, _: object) -> Any:
        return cls

    def __iter__(cls) -> Any:
        return iter(())

    def __enter__(cls) -> Any:
        return cls

    def __exit__(cls, *_: object) -> None:
        pass


class _EmptyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if _is_special(name):
            raise AttributeError(name)
        return _inert(f"{self.__name__}.{name}")


class _Finder(MetaPathFinder, Loader):
    def __init__(self, libraries: frozenset[str]) -> None:
        self._libraries = libraries

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = fullname.partition(".")[0] in self._libraries
        return ModuleSpec(fullname, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__version__ = "0"  # type: ignore[attr-defined]


def _inert(name: str) -> Any:
    """Warnings and exceptions are told by their names: filters and ``except`` take nothing else."""
    bases: tuple[type, ...] = ()
    if name.endswith("Warning"):
        bases = (Warning,)
    elif name.endswith(("Error", "Exception")):
        bases = (Exception,)
    return _InertType(name, bases, {_MARK: True})


def _may_be_decorated(value: Any) -> bool:
    """Exceptions are arguments, as in ``@retry(RuntimeError)``."""
    return callable(value) and not (isinstance(value, type) and issubclass(value, BaseException))


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
