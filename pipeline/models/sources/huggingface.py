"""`huggingface`: a folder of transformers, on this machine or in a store, or a model of the hub."""

from dataclasses import dataclass

from infra.storage.files import digest
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.folders import FolderPlace
from pipeline.errors import SourceError
from pipeline.models.file_versions import version_on_disk
from pipeline.models.huggingface.folder import count_numbers, documents, has_weights, weight_files
from pipeline.models.huggingface.loading import folder_shapes, load_folder, untrained_folder
from pipeline.models.huggingface.preprocessing import preprocessing_documents
from pipeline.models.interface import LoadedModel, ModelFiles


@dataclass(frozen=True)
class HuggingFaceSource:
    """A causal language model, or a classifier of images, texts or audio, as its `config.json` says."""

    config: AuditConfig
    model: ModelConfig

    @property
    def _name(self) -> str:
        return str(self.model.huggingface)

    @property
    def _place(self) -> FolderPlace:
        return FolderPlace(self._name, self.config.locate(self._name))

    def load(self, source: bytes | None) -> LoadedModel:
        """By transformers itself."""
        return load_folder(self._place, self.model.task)

    def shapes(self, source: bytes | None) -> LoadedModel:
        """What its config describes."""
        return folder_shapes(self._place, self.model.task)

    def untrained(self, source: bytes | None) -> LoadedModel:
        """As the library begins to train it."""
        return untrained_folder(self._place, self.model.task)

    def files(self) -> ModelFiles | None:
        """Of documents the contents; of weights what tells a changed file."""
        if not self._place.on_disk:
            return ModelFiles(tuple(f"{file.url} {file.identity}" for file in self._place.files_in_store()))
        folder = self._place.find()
        weights = sorted({*weight_files(folder, self._name), *folder.glob("*.safetensors")})
        small = {*documents(folder, self._name), *preprocessing_documents(folder, self._name)}
        lines = [f"{file.name} {version_on_disk(file)}" for file in weights]
        return ModelFiles((*lines, *(f"{file.name} {digest(file.read_bytes())}" for file in sorted(small))))

    def weight_bytes(self) -> int:
        """Of float32, by the headers of its files."""
        files = weight_files(self._place.find(), self._name)
        return 4 * count_numbers(files, self._name)

    def missing_weights(self) -> str:
        """What is missing of a folder that has a config and no weights."""
        folder = self._place.find()
        try:
            if not has_weights(folder):
                weight_files(folder, self._name)
        except SourceError as error:
            return str(error)
        return ""
