"""How a model is known again without reading its weights: by sizes, times and versions of files, and by small files.

The identity of weights on a disk is their size, both times of change, and the file's number there: whoever changes
contents, or puts another file in the place, changes one of these, even where size and modification time are restored.
In a store it is what the store itself gives every upload, such as an ETag. What is small is known by its contents: the
file of an architecture, and the documents of a folder.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from infra.errors import StorageError
from infra.storage.files import digest, find, read_input
from infra.storage.identity import NO_VERSION
from infra.storage.urls import path_on_disk
from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.models.architecture import is_file
from pipeline.models.huggingface.folder import documents, find_folder, weight_files
from pipeline.models.local_code import file_of


@dataclass(frozen=True)
class ModelFiles:
    """What a model's files are now: a line for each, and the code of an architecture that the config names by file."""

    lines: tuple[str, ...]
    source: bytes | None = None


def identify(config: AuditConfig, model: ModelConfig) -> ModelFiles | None:
    """What a model's files are now; no code is imported, and no weights are read.

    None where that cannot be told: a file is missing or not to be used, or its store gives uploads no version. Loading
    the model then says what is wrong.
    """
    try:
        if model.huggingface is not None:
            return _of_folder(find_folder(config, model.huggingface), model.huggingface)
        assert model.architecture is not None and model.weights is not None
        return _of_architecture(config, model.architecture, model.weights)
    except (StorageError, SourceError, OSError, ValueError, ImportError):
        return None


def _of_architecture(config: AuditConfig, architecture: str, weights: str) -> ModelFiles | None:
    place = architecture.rpartition(":")[0]
    named = read_input(config.locate(place)) if is_file(architecture) else None
    path = file_of(place) if named is None else None
    source = path.read_bytes() if path is not None else named
    version = _version(weights, config.locate(weights))
    if source is None or version is None:
        return None
    return ModelFiles((digest(source), version), named)


def _of_folder(folder: Path, name: str) -> ModelFiles:
    files = {*weight_files(folder, name), *folder.glob("*.safetensors")}
    weights = [f"{file.name} {_on_disk(file)}" for file in sorted(files)]
    return ModelFiles((*weights, *(f"{file.name} {digest(file.read_bytes())}" for file in documents(folder, name))))


def _version(name: str, url: str) -> str | None:
    """What tells the contents of a file from earlier ones; None where its store does not."""
    local = path_on_disk(url)
    if local is not None:
        return _on_disk(Path(local))
    (file,) = find(name, url).files
    return None if file.version in NO_VERSION else f"{file.url} {file.size} {file.version}"


def _on_disk(path: Path) -> str:
    found = os.stat(path)
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
