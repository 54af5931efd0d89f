"""Models: architecture code that the config names, or a Hugging Face folder; weights that are never executed; the digest of both."""

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from infra.errors import Missing, StorageError
from infra.storage.files import digest, read_input
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.texts import TextLimits
from pipeline.errors import SourceError
from pipeline.models.huggingface import load_causal_lm
from pipeline.models.user_code import user_code
from pipeline.models.weights import parse_weights, read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model on the CPU, in eval mode, the digest of its weights and what they mean, and of a language model what it takes.

    `source`: the code of an architecture that the config names by file, for workers that may not see that file.
    """

    module: nn.Module
    digest: str
    source: bytes | None = None
    limits: TextLimits | None = None


def load_model(config: AuditConfig, model: ModelConfig, source: bytes | None = None) -> LoadedModel:
    """Builds the architecture and loads the weights.

    Args:
        config: the audit's.
        model: the model's.
        source: the code of its architecture file, where it has been read before.

    Raises:
        SourceError: naming what is wrong with the architecture or the weights.
    """
    if model.huggingface is not None:
        found = load_causal_lm(config, model.huggingface)
        return LoadedModel(found.module, found.digest, limits=found.limits)
    assert model.architecture is not None and model.weights is not None
    build, code = _architecture(config, model.architecture, source)
    return _load_weights(config, model, build, code)


def _load_weights(config: AuditConfig, model: ModelConfig, build: Callable[..., object], source: bytes) -> LoadedModel:
    architecture, weights_name = str(model.architecture), str(model.weights)
    with user_code(f"architecture {architecture}"):
        module = build(**model.kwargs)
    if not isinstance(module, nn.Module):
        raise SourceError(
            f"architecture {architecture}: returned an object of type {type(module).__name__}, not a torch.nn.Module"
        )
    weights = read_weights(weights_name, config.locate(weights_name), int(config.run.memory_per_worker))
    _fill(module, parse_weights(weights, weights_name), model)
    parts = [digest(weights), digest(source), json.dumps(model.kwargs, sort_keys=True)]
    return LoadedModel(module.eval(), digest("\n".join(parts).encode()), source if _is_file(architecture) else None)


def _is_file(architecture: str) -> bool:
    return architecture.rpartition(":")[0].endswith(".py")


def _architecture(config: AuditConfig, spec: str, source: bytes | None) -> tuple[Callable[..., object], bytes]:
    place, _, function = spec.rpartition(":")
    if not place or not function:
        raise SourceError(f"architecture {spec}: expected file.py:function or package.module:function")
    module, source = _import_file(config, place, source) if _is_file(spec) else _import_package(place)
    build = getattr(module, function, None)
    if callable(build):
        return build, source
    if build is not None:
        raise SourceError(
            f"architecture {spec}: {function!r} in {place} is no function, but of type {type(build).__name__}"
        )
    near = get_close_matches(function, dir(module), n=1)
    raise SourceError(
        f"architecture {spec}: {place} has no function {function!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


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
    if module.__file__ is None:
        raise SourceError(f"architecture {place}: has no source file, so its code cannot be part of the model's digest")
    return module, Path(module.__file__).read_bytes()


def _fill(module: nn.Module, weights: Mapping[str, Tensor], model: ModelConfig) -> None:
    wanted = module.state_dict()
    complaints = {
        "missing in the file": [name for name in wanted if name not in weights],
        "unknown to the architecture": sorted(name for name in weights if name not in wanted),
        "of another shape": [
            f"{name} ({tuple(weights[name].shape)} in the file, {tuple(wanted[name].shape)} in the architecture)"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ],
    }
    found = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in complaints.items()
        if names
    ]
    if found:
        raise SourceError(
            f"weights {model.weights} do not fit architecture {model.architecture} with kwargs {model.kwargs}: {'; '.join(found)}"
        )
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise SourceError(
            f"weights {model.weights} do not fit architecture {model.architecture}: {' '.join(str(error).split())}"
        ) from error
