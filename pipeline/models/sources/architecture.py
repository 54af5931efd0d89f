"""`architecture` and `weights`: a function of the user's that builds a module, and a file of its weights."""

import json
from dataclasses import dataclass, replace

import torch
from torch import nn

from infra.storage.files import digest, read_input, size_of
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.models.architecture import Architecture, find_architecture, is_file
from pipeline.models.file_versions import version_of
from pipeline.models.interface import UNTRAINED, LoadedModel, ModelFiles, fixed_seed
from pipeline.models.local_code import file_of, local_code
from pipeline.models.user_code import user_code
from pipeline.models.weights.loading import load_weights


@dataclass(frozen=True)
class ArchitectureSource:
    """A model that a function builds; it may be of a file, or of an installed package."""

    config: AuditConfig
    model: ModelConfig

    @property
    def _spec(self) -> str:
        return str(self.model.architecture)

    @property
    def _weights(self) -> str:
        return str(self.model.weights)

    def load(self, source: bytes | None) -> LoadedModel:
        """Builds the architecture and loads the weights."""
        found = find_architecture(self.config, self._spec, source)
        module = self._built(found)
        url, granted = self.config.locate(self._weights), int(self.config.run.memory_per_worker)
        described = f"architecture {self._spec} with kwargs {self.model.kwargs}"
        weights = load_weights(module, self._weights, url, granted, described)
        loaded = self._with_code(module, found, weights.digest)
        return replace(loaded, undone=weights.undone, lacking=weights.lacking)

    def untrained(self, source: bytes | None) -> LoadedModel:
        """What the function builds."""
        found = find_architecture(self.config, self._spec, source)
        with fixed_seed():
            module = self._built(found).eval()
        return self._with_code(module, found, UNTRAINED)

    def shapes(self, source: bytes | None) -> LoadedModel:
        """What the function builds on the meta device."""
        architecture = find_architecture(self.config, self._spec, source)
        with torch.device("meta"):
            module = self._built(architecture).eval()
        return LoadedModel(module, "", {}, architecture.source if is_file(self._spec) else None)

    def files(self) -> ModelFiles | None:
        """Of the code the contents; of the weights what tells a changed file."""
        place = self._spec.rpartition(":")[0]
        named = read_input(self.config.locate(place)) if is_file(self._spec) else None
        path = file_of(place) if named is None else None
        source = path.read_bytes() if path is not None else named
        url = self.config.locate(self._weights)
        version = UNTRAINED if self.model.untrained else version_of(self._weights, url)
        if source is None or version is None:
            return None
        return ModelFiles((digest(source), version), named)

    def weight_bytes(self) -> int:
        """Those of the file, which may hold more than the weights; of random ones it is not known."""
        return 0 if self.model.untrained else size_of(self.config.locate(self._weights))

    def missing_weights(self) -> str:
        """Nothing: weights that are not there are an error."""
        return ""

    def _with_code(self, module: nn.Module, found: Architecture, weights: str) -> LoadedModel:
        """A model that its code has built, with the digest of both; `weights` says which they are."""
        reached = local_code(module, found.module, found.source, f"architecture {self._spec}")
        code = {name: digest(reached[name]) for name in sorted(reached)}
        function, kwargs = self._spec.rpartition(":")[2], json.dumps(self.model.kwargs, sort_keys=True)
        named = [f"{name} {sha256}" for name, sha256 in code.items()]
        parts = [weights, digest(found.source), function, kwargs, *named]
        source = found.source if is_file(self._spec) else None
        return LoadedModel(module, digest("\n".join(parts).encode()), code, source)

    def _built(self, found: Architecture) -> nn.Module:
        with user_code(f"architecture {self._spec}"):
            module = found.build(**self.model.kwargs)
        if not isinstance(module, nn.Module):
            raise SourceError(
                f"architecture {self._spec}: returned an object of type {type(module).__name__}, not a torch.nn.Module"
            )
        return module
