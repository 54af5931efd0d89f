"""`adapter` beside `huggingface`: low-rank matrices of PEFT on a base that the config itself names."""

from dataclasses import dataclass, replace

from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.folders import FolderPlace
from pipeline.errors import SourceError
from pipeline.models.adapters.folder import adapter_files, adapter_settings
from pipeline.models.adapters.loading import add_adapter, check_installed
from pipeline.models.file_versions import version_on_disk
from pipeline.models.huggingface.loading import quiet
from pipeline.models.interface import LoadedModel, ModelFiles
from pipeline.models.sources.huggingface import HuggingFaceSource
from pipeline.models.weights.faithful import without_number


@dataclass(frozen=True)
class AdapterSource:
    """A model of transformers with an adapter; only what the config names is read, whatever the adapter says."""

    config: AuditConfig
    model: ModelConfig

    @property
    def _name(self) -> str:
        return str(self.model.adapter)

    @property
    def _base(self) -> HuggingFaceSource:
        return HuggingFaceSource(self.config, self.model)

    def load(self, source: bytes | None) -> LoadedModel:
        """The base with the adapter's matrices beside its own, not merged into them."""
        check_installed(self._name)
        config, weights = adapter_files(self._place.find(), self._name)
        settings = adapter_settings(config, self._name)
        base = self._base.load(source)
        with quiet():
            add_adapter(base.module, settings, weights, self._name)
        parts = [base.digest, digest(config.read_bytes()), digest(weights.read_bytes())]
        lacking = without_number(base.module)
        return replace(base, digest=digest("\n".join(parts).encode()), lacking=lacking)

    def shapes(self, source: bytes | None) -> LoadedModel:
        """The shapes of both."""
        check_installed(self._name)
        config, _ = adapter_files(self._place.find(), self._name)
        base = self._base.shapes(source)
        with quiet():
            add_adapter(base.module, adapter_settings(config, self._name), None, self._name)
        return base

    def untrained(self, source: bytes | None) -> LoadedModel:
        """There is none: an adapter that is not trained changes nothing."""
        raise SourceError(
            f"adapter {self._name}: control: untrained is of a whole model; give it to the base, as a model of its own"
        )

    def files(self) -> ModelFiles | None:
        """Those of the base, and the adapter's."""
        base = self._base.files()
        if base is None:
            return None
        if not self._place.on_disk:
            own = [f"{file.url} {file.identity}" for file in self._place.files_in_store()]
        else:
            config, weights = adapter_files(self._place.find(), self._name)
            own = [f"{config.name} {digest(config.read_bytes())}", f"{weights.name} {version_on_disk(weights)}"]
        return replace(base, lines=(*base.lines, *own))

    def weight_bytes(self) -> int:
        """Of the base, and of the adapter's file."""
        _, weights = adapter_files(self._place.find(), self._name)
        return self._base.weight_bytes() + 2 * weights.stat().st_size

    def missing_weights(self) -> str:
        """What is missing of the base."""
        return self._base.missing_weights()

    @property
    def _place(self) -> FolderPlace:
        return FolderPlace(self._name, self.config.locate(self._name), "adapter")
