"""Models ready to be audited: an architecture with weights, or a Hugging Face folder, and the digest of both."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from pipeline.models.architecture import Architecture, find_architecture, is_file
from pipeline.models.huggingface.causal_lm import causal_lm_shapes, load_causal_lm
from pipeline.models.local_code import local_code
from pipeline.models.outputs import adapt_outputs
from pipeline.models.user_code import user_code
from pipeline.models.weights.faithful import without_number
from pipeline.models.weights.fitting import fill
from pipeline.models.weights.reading import parse_weights, read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model on the CPU, in eval mode, and the digest of its weights and of what gives them meaning.

    `code`: digests of further modules that its code comes from, by name.
    `source`: the code of an architecture that the config names by file, for workers that may not see that file.
    `limits`: the texts that a language model takes. `undone`: how the weights were taken out of wrappers and prefixes.
    `lacking`: which of its numbers are not finite, "" if all are; some samples may never meet them.
    """

    module: nn.Module
    digest: str
    code: Mapping[str, str]
    source: bytes | None = None
    limits: TextLimits | None = None
    undone: str = ""
    lacking: str = ""


def load_model(config: AuditConfig, model: ModelConfig, source: bytes | None = None) -> LoadedModel:
    """Builds the architecture and loads the weights; the outputs then are what the task needs.

    Args:
        config: the audit's.
        model: the model's.
        source: the code of its architecture file, where it has been read before.

    Raises:
        SourceError: naming what is wrong with the architecture or the weights.
    """
    if model.huggingface is not None:
        found = load_causal_lm(config, model.huggingface)
        lacking = without_number(found.module)
        return LoadedModel(found.module, found.digest, found.code, limits=found.limits, lacking=lacking)
    assert model.architecture is not None and model.weights is not None
    return _load_architecture(config, model, model.architecture, model.weights, source)


def load_shapes(config: AuditConfig, model: ModelConfig, source: bytes | None = None) -> LoadedModel:
    """A model without its weights, on torch's meta device: shapes alone, whose digest is "".

    Raises:
        SourceError: naming what is wrong with the architecture.
    """
    if model.huggingface is not None:
        found = causal_lm_shapes(config, model.huggingface)
        return LoadedModel(found.module, found.digest, found.code, limits=found.limits)
    assert model.architecture is not None
    architecture = find_architecture(config, model.architecture, source)
    with torch.device("meta"):
        module = _built(architecture, model.architecture, model).eval()
    adapt_outputs(module, model)
    return LoadedModel(module, "", {}, architecture.source if is_file(model.architecture) else None)


def _built(found: Architecture, architecture: str, model: ModelConfig) -> nn.Module:
    with user_code(f"architecture {architecture}"):
        module = found.build(**model.kwargs)
    if not isinstance(module, nn.Module):
        raise SourceError(
            f"architecture {architecture}: returned an object of type {type(module).__name__}, not a torch.nn.Module"
        )
    return module


def _load_architecture(
    config: AuditConfig, model: ModelConfig, architecture: str, weights_name: str, source: bytes | None
) -> LoadedModel:
    found = find_architecture(config, architecture, source)
    module = _built(found, architecture, model)
    weights = read_weights(weights_name, config.locate(weights_name), int(config.run.memory_per_worker))
    misfit = f"weights {weights_name} do not fit architecture {architecture} with kwargs {model.kwargs}"
    with user_code(f"architecture {architecture}: loading weights {weights_name}"):
        undone = fill(module, parse_weights(weights, weights_name), misfit)
        module.eval()
        lacking = without_number(module)
    reached = local_code(module, found.module, found.source, f"architecture {architecture}")
    code = {name: digest(reached[name]) for name in sorted(reached)}
    adapt_outputs(module, model)
    function = architecture.rpartition(":")[2]
    named = [f"{name} {sha256}" for name, sha256 in code.items()]
    parts = [digest(weights), digest(found.source), function, json.dumps(model.kwargs, sort_keys=True), *named]
    return LoadedModel(
        module,
        digest("\n".join(parts).encode()),
        code,
        found.source if is_file(architecture) else None,
        undone=undone,
        lacking=lacking,
    )
