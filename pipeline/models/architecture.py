"""The code of an architecture: a function in a file or an installed package that the config names, and its source."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from infra.errors import Missing, StorageError
from infra.storage.files import digest, read_input
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.stale_code import refuse_stale
from pipeline.models.user_code import user_code


def is_file(architecture: str) -> bool:
    """Whether an architecture is named by its file, not by its package."""
    return architecture.rpartition(":")[0].endswith(".py")


@dataclass(frozen=True)
class Architecture:
    """The function that builds a model, its module, and the source of that."""

    build: Callable[..., object]
    module: ModuleType
    source: bytes


def find_architecture(config: AuditConfig, spec: str, source: bytes | None) -> Architecture:
    """Find the function that builds a model.

    Args:
        config: the audit's.
        spec: `file.py:function` or `package.module:function`.
        source: of the file, where it has been read before; None reads it.

    Raises:
        SourceError: naming what is wrong with the architecture.
    """
    place, _, function = spec.rpartition(":")
    if not place or not function:
        raise SourceError(f"architecture {spec}: expected file.py:function or package.module:function")
    module, source = _import_file(config, place, source) if is_file(spec) else _import_package(place)
    build = getattr(module, function, None)
    if callable(build):
        return Architecture(build, module, source)
    if build is not None:
        kind = type(build).__name__
        raise SourceError(f"architecture {spec}: {function!r} in {place} is not a function, but of type {kind}")
    near = get_close_matches(function, dir(module), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SourceError(f"architecture {spec}: {place} has no function {function!r}{hint}")


def _import_file(config: AuditConfig, place: str, source: bytes | None) -> tuple[ModuleType, bytes]:
    """Runs the very bytes that the digest is made of; Python's own import could run a cached older version."""
    path = config.locate(place)
    if source is None:
        try:
            source = read_input(path)
        except Missing as error:
            raise SourceError(f"architecture {place}: no such file ({path})") from error
        except StorageError as error:
            raise SourceError(f"architecture {place}: {error}") from error
    module = ModuleType(f"mad_architecture_{digest(path.encode() + source)[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    with user_code(
        f"architecture {place}: importing it (a file that imports its neighbours must be named package.module:function)"
    ):
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - the config names this code to be run
    return module, source


def _import_package(place: str) -> tuple[ModuleType, bytes]:
    with user_code(f"architecture {place}: importing it (is it installed in mad's environment, on every node?)"):
        module = importlib.import_module(place)
    file = getattr(module, "__file__", None)  # built-in modules have none, of namespace packages it is None
    if file is None:
        raise SourceError(f"architecture {place}: has no source file, so its code cannot be part of the model's digest")
    source = Path(file).read_bytes()
    refuse_stale(module, source, f"architecture {place}")
    return module, source
