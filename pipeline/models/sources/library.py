"""`timm` and `torchvision`: a model by its name in a library, and a file of its weights."""

import inspect
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from infra.storage.files import digest, size_of
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.models.file_versions import version_of
from pipeline.models.interface import UNTRAINED, Knowledge, LoadedModel, ModelFiles, fixed_seed
from pipeline.models.libraries.library import Library, imported
from pipeline.models.user_code import user_code
from pipeline.models.weights.loading import load_weights


@dataclass(frozen=True)
class LibrarySource:
    """A model that a library builds by name, without fetching anything."""

    config: AuditConfig
    model: ModelConfig
    library: Library

    @property
    def _name(self) -> str:
        return str(getattr(self.model, self.library.key))

    @property
    def _described(self) -> str:
        return f"{self.library.key} {self._name} with kwargs {self.model.kwargs}"

    @property
    def _weights(self) -> str:
        return str(self.model.weights)

    def load(self, source: bytes | None) -> LoadedModel:
        """By the library's own function, without its weights, which come from the file."""
        library = imported(self.library, self._name)
        module = self._built(library)
        url, granted = self.config.locate(self._weights), int(self.config.run.memory_per_worker)
        weights = load_weights(module, self._weights, url, granted, self._described)
        loaded = self._known(library, module, weights.digest)
        return replace(loaded, undone=weights.undone, lacking=weights.lacking)

    def untrained(self, source: bytes | None) -> LoadedModel:
        """What the library builds."""
        library = imported(self.library, self._name)
        with fixed_seed():
            module = self._built(library).eval()
        return self._known(library, module, UNTRAINED)

    def shapes(self, source: bytes | None) -> LoadedModel:
        """What the library builds on the meta device."""
        library = imported(self.library, self._name)
        with torch.device("meta"):
            module = self._built(library).eval()
        return replace(self._known(library, module, ""), digest="", code={})

    def files(self) -> ModelFiles | None:
        """What tells a changed file of weights; the code is known by what was found of it (`LoadedModel.code`)."""
        if self.model.untrained:
            return ModelFiles((UNTRAINED,))
        version = version_of(self._weights, self.config.locate(self._weights))
        return None if version is None else ModelFiles((version,))

    def weight_bytes(self) -> int:
        """Those of the file, which may hold more than the weights; of random ones it is not known."""
        return 0 if self.model.untrained else size_of(self.config.locate(self._weights))

    def missing_weights(self) -> str:
        """Nothing: weights that are not there are an error."""
        return ""

    def _built(self, library: ModuleType) -> nn.Module:
        chosen = [key for key in self.library.chosen_elsewhere if key in self.model.kwargs]
        if chosen:
            raise SourceError(
                f"{self._described}: {chosen[0]} would choose other weights or files than the config's; name the file "
                "of its weights in weights, and leave that out of kwargs"
            )
        with user_code(self._described):
            module = self.library.build(library, self._name, self.model.kwargs)
        if not isinstance(module, nn.Module):
            raise SourceError(f"{self._described}: is of type {type(module).__name__}, not a torch.nn.Module")
        return module

    def _known(self, library: ModuleType, module: nn.Module, weights: str) -> LoadedModel:
        """A model, with what its library knows of it, and the digest of its name, its class's code and its weights."""
        code = digest(Path(inspect.getfile(type(module))).read_bytes())
        kwargs = json.dumps(self.model.kwargs, sort_keys=True)
        parts = [weights, self.library.key, self._name, kwargs, type(module).__name__, code]
        with user_code(f"{self._described}: what {self.library.key} knows of it"):
            recipe = self.library.recipe(library, module, self._name, self.model.kwargs)
            names = self.library.class_names(library, module, self._name, self.model.kwargs)
        known = Knowledge("images", names, recipe=recipe)
        return LoadedModel(module, digest("\n".join(parts).encode()), {type(module).__module__: code}, known=known)
