"""Where a Hugging Face folder is: on this machine, in a store, or on the hub; the last two are fetched."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from infra.execution.contract import describe
from infra.storage.files import find
from infra.storage.identity import InputFile
from infra.storage.local_copies import local_copy
from infra.storage.urls import path_on_disk
from pipeline.config.audit_config import AuditConfig
from pipeline.errors import SourceError
from pipeline.models.huggingface.folder import ADAPTER, CONFIG, GENERATION, INDEX, WEIGHTS
from pipeline.models.huggingface.preprocessing import DOCUMENTS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

OF_HUB = [CONFIG, GENERATION, INDEX, ADAPTER, *DOCUMENTS, WEIGHTS, "model-*.safetensors", "adapter_model.safetensors"]

FETCHED = (CONFIG, GENERATION, INDEX, ADAPTER, *DOCUMENTS, "*.safetensors")


def find_folder(config: AuditConfig, name: str, key: str = "huggingface") -> Path:
    """The folder of a model or, with the key `adapter`, of an adapter, by its path, its URL, or its id on the hub.

    Raises:
        SourceError: there is no such folder, and the hub has no such model.
        StorageError: a store cannot be read, or its copy cannot be written.
    """
    url = config.locate(name)
    place = path_on_disk(url)
    if place is None:
        return local_copy(files_in_store(name, url, key))
    folder = Path(place)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise SourceError(f"{key} {name}: is a file; name the folder that holds {CONFIG} and the safetensors files")
    if not HUB_ID.fullmatch(name):
        raise SourceError(f"{key} {name}: no such folder ({folder})")
    return _from_hub(name, folder, key)


def files_in_store(name: str, url: str, key: str = "huggingface") -> tuple[InputFile, ...]:
    """The files of a folder in a store that a model is made of, as they are now.

    Raises:
        SourceError: there is no such folder, or it holds no model.
        StorageError: it cannot be read.
    """
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
