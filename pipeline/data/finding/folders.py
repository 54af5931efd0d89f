"""Folders as the samples of a split: taken by what they hold, at any depth."""

import json
import posixpath
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import Missing
from infra.formats.data.formats import FORMATS, IMAGES
from infra.storage.files import Found, find, open_input
from infra.storage.identity import InputFile
from infra.storage.parts import is_image, parts_of
from pipeline.errors import SourceError

STATE, SPLITS = "state.json", "dataset_dict.json"

KINDS = {ending: known.described for known in FORMATS for ending in known.endings if ending not in (".txt", ".json")}

SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


SHOWN = 5


LARGEST_DOCUMENT = 16 << 20


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")
    filename: str


class _State(BaseModel):
    """What Hugging Face's `save_to_disk` says of the files in its folder."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    data_files: tuple[_File, ...]
    indices: tuple[_File, ...] | None = None


class _Splits(BaseModel):
    model_config = ConfigDict(extra="ignore")
    splits: tuple[str, ...]


def find_in_folder(name: str, url: str) -> Found:
    """The files of samples in a folder, as a config's path names it.

    A folder that Hugging Face's `save_to_disk` wrote holds the files that it says; in any other, files are taken by
    what their names end in, and all have to be of one kind.

    Raises:
        SourceError: it holds none, files of several kinds, or the splits of a data set.
        StorageError: it cannot be read.
    """
    name, url = name.rstrip("/"), url.rstrip("/")
    _refuse_splits(name, url)
    found = find(f"{name}/**", f"{url}/**")
    saved = _saved(name, url)
    if saved is not None:
        return Found(_named(saved, found.files, name), {})
    kinds = Counter(kind for file in found.files if (kind := _kind(file)))
    if len(kinds) > 1:
        here = " and ".join(f"{count:,} of {kind}" for kind, count in kinds.items())
        raise SourceError(
            f"{name}: is a folder with files of several kinds, {here}; name those you mean, as {name}/*.parquet"
        )
    if not kinds and not found.faults:
        raise SourceError(
            f"{name}: is a folder without files of samples{_shown(found.files)}; name a folder of {_known()}"
        )
    if IMAGES.described in kinds:
        _refuse_split_names(name, found.files)
        return Found(parts_of(name, url, found.files), found.faults)
    return Found(tuple(file for file in found.files if _kind(file)), found.faults)


def _refuse_split_names(name: str, files: Sequence[InputFile]) -> None:
    """Refuse a folder of images whose folders are called as splits, not as classes.

    Raises:
        SourceError: with the splits.
    """
    folders = sorted({file.name.removeprefix(f"{name}/").partition("/")[0] for file in files if is_image(file.name)})
    if len(folders) > 1 and set(folders) <= SPLIT_NAMES:
        there = ", ".join(f"{name}/{split}" for split in folders)
        raise SourceError(f"{name}: holds several splits of a data set; name the one that you mean: {there}")


def _kind(file: InputFile) -> str | None:
    if is_image(file.name):
        return IMAGES.described
    return KINDS.get(posixpath.splitext(file.name)[1].lower())


def _known() -> str:
    return f"images, or of files in {', '.join(dict.fromkeys(KINDS.values()))}"


def _shown(files: Sequence[InputFile]) -> str:
    if not files:
        return ", it is empty"
    more = f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
    return f", it holds {', '.join(posixpath.basename(file.name) for file in files[:SHOWN])}{more}"


def _document(url: str) -> object:
    """A JSON document of a folder, None where there is none or it is of another form."""
    try:
        with open_input(url) as handle:
            return json.loads(handle.read(LARGEST_DOCUMENT))
    except (Missing, ValueError, RecursionError):
        return None


def _refuse_splits(name: str, url: str) -> None:
    """Refuse a folder of several splits, as a DatasetDict is saved.

    Raises:
        SourceError: with the splits.
    """
    try:
        splits = _Splits.model_validate(_document(f"{url}/{SPLITS}")).splits
    except ValidationError:
        return
    there = ", ".join(f"{name}/{split}" for split in splits)
    raise SourceError(f"{name}: holds several splits of a data set; name the one that you mean: {there}")


def _saved(name: str, url: str) -> tuple[str, ...] | None:
    """The files of a data set that `save_to_disk` wrote, in order; None where it did not write this folder.

    Raises:
        SourceError: its rows are chosen by indices, which are not read.
    """
    document = _document(f"{url}/{STATE}")
    if not isinstance(document, dict) or "_data_files" not in document:
        return None
    try:
        state = _State(data_files=document["_data_files"], indices=document.get("_indices_data_files"))
    except ValidationError as error:
        raise SourceError(f"{name}/{STATE}: is damaged; save the data set again") from error
    if state.indices:
        raise SourceError(
            f"{name}: its rows are chosen by indices, which are not read; save ds.flatten_indices() instead"
        )
    return tuple(one.filename for one in state.data_files)


def _named(names: Sequence[str], files: Sequence[InputFile], folder: str) -> tuple[InputFile, ...]:
    """The files of these names in a folder.

    Raises:
        SourceError: one is not there.
    """
    known = {file.name.removeprefix(f"{folder}/"): file for file in files}
    missing = [name for name in names if name not in known]
    if missing:
        raise SourceError(f"{folder}: lacks {missing[0]!r}, which its {STATE} names; was it copied whole?")
    return tuple(known[name] for name in names)
