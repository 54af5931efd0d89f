"""Folders of models: on this machine, in a store, or on the hub; the last two are fetched. And their documents."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from infra.execution.contract import describe
from infra.storage.files import find
from infra.storage.identity import InputFile
from infra.storage.local_copies import local_copy
from infra.storage.urls import path_on_disk
from pipeline.errors import SourceError

CONFIG, WEIGHTS = "config.json", "model.safetensors"

INDEX, ADAPTER, GENERATION = "model.safetensors.index.json", "adapter_config.json", "generation_config.json"

IMAGE_PROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"

TOKENIZER, TOKENS, SPECIAL, ADDED, TEMPLATE = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)

OF_TOKENIZER = (TOKENS, TOKENIZER, SPECIAL, ADDED, TEMPLATE)

DOCUMENTS = (IMAGE_PROCESSOR, PROCESSOR, *OF_TOKENIZER)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

OF_HUB = [CONFIG, GENERATION, INDEX, ADAPTER, *DOCUMENTS, WEIGHTS, "model-*.safetensors", "adapter_model.safetensors"]

FETCHED = (CONFIG, GENERATION, INDEX, ADAPTER, *DOCUMENTS, "*.safetensors")


@dataclass(frozen=True)
class FolderPlace:
    """Where a folder is: its name in the config, the URL of that, and the key of the config that names it."""

    name: str
    url: str
    key: str = "huggingface"

    @property
    def on_disk(self) -> bool:
        """Whether it is named by a path of this machine, or perhaps by an id on the hub."""
        return path_on_disk(self.url) is not None

    def find(self) -> Path:
        """The folder on this machine; one of a store or of the hub is fetched.

        Raises:
            SourceError: there is no such folder, and the hub has no such model.
            StorageError: a store cannot be read, or its copy cannot be written.
        """
        return _find(self.name, self.url, self.key)

    def files_in_store(self) -> tuple[InputFile, ...]:
        """The files of a folder in a store that a model is made of, as they are now.

        Raises:
            SourceError: there is no such folder, or it holds no model.
            StorageError: it cannot be read.
        """
        return _files_in_store(self.name, self.url, self.key)


def _find(name: str, url: str, key: str) -> Path:
    place = path_on_disk(url)
    if place is None:
        return local_copy(_files_in_store(name, url, key))
    folder = Path(place)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise SourceError(f"{key} {name}: is a file; name the folder that holds {CONFIG} and the safetensors files")
    if not HUB_ID.fullmatch(name):
        raise SourceError(f"{key} {name}: no such folder ({folder})")
    return _from_hub(name, folder, key)


def _files_in_store(name: str, url: str, key: str) -> tuple[InputFile, ...]:
    found = find(f"{name.rstrip('/')}/*", f"{url.rstrip('/')}/*").files
    wanted = [file for file in found if any(fnmatchcase(file.url.rpartition("/")[2], pattern) for pattern in FETCHED)]
    if not wanted:
        raise SourceError(f"{key} {name}: no such folder in its store, or it holds neither {CONFIG} nor weights")
    return tuple(wanted)


def _from_hub(name: str, folder: Path, key: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - of the extra, and slow to import

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=[CONFIG, GENERATION, WEIGHTS, INDEX, "model-*.safetensors", *DOCUMENTS]
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{key} {name}: no such folder ({folder}), and the hub gave no model of this id ({describe(error)})"
        ) from error
