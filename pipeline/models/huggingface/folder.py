"""A Hugging Face folder: which of its files hold the weights, and whether they are safe to parse."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.execution.contract import describe
from pipeline.data.folders import ADAPTER, CONFIG, GENERATION, INDEX, TOKENIZER, WEIGHTS
from pipeline.errors import SourceError
from pipeline.models.weights.foreign_files import foreign
from pipeline.models.weights.reading import LARGEST_HEADER, check_header

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


LOOKED_AT = 512  # bytes at the beginning of a file that say what it is


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files that hold the model's weights, sorted.

    Raises:
        SourceError: there are none, or only pickles; or the folder holds an adapter, or no config.
    """
    needed = (folder / CONFIG, folder / INDEX, *sorted(folder.glob("*.safetensors")))
    dangling = [file.name for file in needed if file.is_symlink() and not file.exists()]
    if dangling:
        target = (folder / dangling[0]).readlink()
        raise SourceError(
            f"huggingface {name}: {dangling[0]} is a link to {target}, which is not there; "
            "was the folder copied without what its links lead to?"
        )
    if (folder / ADAPTER).is_file():
        raise SourceError(
            f"huggingface {name}: holds an adapter ({ADAPTER}), whose base model is elsewhere; "
            "name the base under huggingface, and this folder under adapter"
        )
    if not (folder / CONFIG).is_file():
        raise SourceError(f"huggingface {name}: has no {CONFIG}; name the folder that model.save_pretrained wrote")
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder, name)
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise SourceError(
            f"huggingface {name}: refused, because its weights are not safetensors but {', '.join(pickles[:3])}, "
            "and a pickle runs whatever code it holds; "
            "convert it with model.save_pretrained(folder, safe_serialization=True)"
        )
    here = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
    raise SourceError(f"huggingface {name}: has neither {WEIGHTS} nor {INDEX}; files there: {here}")


def has_weights(folder: Path) -> bool:
    """Whether a folder with a config holds any weights, of whatever kind, or an adapter."""
    names = (WEIGHTS, INDEX, ADAPTER)
    kinds = ("*.safetensors", *PICKLES)
    here = any((folder / name).exists() for name in names) or any(any(folder.glob(kind)) for kind in kinds)
    return here or not (folder / CONFIG).is_file()


def _shards(folder: Path, name: str) -> list[Path]:
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"huggingface {name}: {INDEX} is not readable ({describe(error)})") from error
    foreign = [shard for shard in shards if not shard.endswith(".safetensors") or Path(shard).name != shard]
    if foreign:
        raise SourceError(
            f"huggingface {name}: {INDEX} names {foreign[0]}, which is not a safetensors file of this folder"
        )
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise SourceError(f"huggingface {name}: {INDEX} names {len(missing)} files that are not there: {missing[0]}")
    return [folder / shard for shard in shards]


def documents(folder: Path, name: str) -> list[Path]:
    """The documents there that say what the weights mean and which tokens pad, each small enough to be read.

    Raises:
        SourceError: one is too large.
    """
    here = [folder / document for document in (CONFIG, INDEX, GENERATION, TOKENIZER)]
    found = [document for document in here if document.is_file()]
    for document in found:
        check_size(document, name)
    return found


def types_of(files: Sequence[Path]) -> dict[str, str]:
    """The type of each tensor, as the headers of safetensors files say, which a reader has found sound."""
    return {key: tensor["dtype"] for header in map(_header, files) for key, tensor in header.items()}


def count_numbers(files: Sequence[Path], name: str) -> int:
    """How many numbers safetensors files hold, as their headers say.

    Raises:
        SourceError: a header claims too much, or is not readable.
    """
    for path in files:
        with path.open("rb") as file:
            check_header(file.read(8), f"huggingface {name}: {path.name}")
    try:
        return sum(math.prod(tensor["shape"]) for header in map(_header, files) for tensor in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"huggingface {name}: a header is not readable ({describe(error)})") from error


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {key: tensor for key, tensor in header.items() if key != "__metadata__"}


def check_sizes(folder: Path, files: Sequence[Path], name: str, key: str = "huggingface") -> None:
    """Checks the size of documents, and what the headers of weights claim, before a library parses them.

    Raises:
        SourceError: one is too large, or claims too much.
    """
    for document in (folder / CONFIG, folder / INDEX):
        check_size(document, name, key)
    for path in files:
        with path.open("rb") as file:
            start = file.read(LOOKED_AT)
        other = "" if start[8:9] == b"{" else foreign(start)
        if other:
            raise SourceError(f"{key} {name}: {path.name} {other}")
        check_header(start[:8], f"{key} {name}: {path.name}")


def check_size(document: Path, name: str, key: str = "huggingface") -> None:
    """Refuse a document that is too large to be read; raises SourceError."""
    size = document.stat().st_size if document.is_file() else 0
    if size > LARGEST_HEADER:
        raise SourceError(
            f"{key} {name}: {document.name} has {size:,} bytes, at most {LARGEST_HEADER:,} are read; "
            "is it the right folder?"
        )
