"""What the runs of a root recorded of data files: what identifies each, and how its rows are found."""

from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import JsonValue, TypeAdapter, ValidationError

from infra.formats.data.contract import Layout
from infra.storage.identity import InputFile
from infra.storage.pins import digest_of
from pipeline.config.schema import ModelConfig
from pipeline.data.identities import by_contents, identify_again
from pipeline.root.records import ModelRecord
from pipeline.root.runs import Runs

_FILE: TypeAdapter[InputFile] = TypeAdapter(InputFile)
_LAYOUT: TypeAdapter[Layout] = TypeAdapter(Layout)

SPLITS = ("trusted", "audited", "sampling")


class KnownFiles:
    """The data files of a root's runs. Each record, and each file whose contents are asked for, is read once."""

    def __init__(self, earlier: Runs):
        """Reads nothing yet."""
        self._earlier = earlier
        self._recorded = cache(self._read_records)
        self._laid_out = cache(self._read_layouts)
        self._digests: dict[tuple[InputFile, object], str] = {}

    def identify(self, file: InputFile, model: ModelConfig) -> InputFile:
        """A file of a model with what identifies it.

        No run is looked at for a file of a store that tells its version, unless its contents have to be known.

        Raises:
            StorageError: its contents have to be read, and cannot be.
        """
        contents = by_contents(file, model)
        known = self._recorded(model.name).get(file.url) if contents or file.seen is not None else None
        return identify_again(file, known, contents, self._digest)

    def recall(self, file: InputFile, model: ModelConfig) -> tuple[Layout, int] | None:
        """How the rows of this very file are found, and how many there are, where a run recorded it."""
        identity, layout, rows = self._laid_out(model.name).get(file.url, ("", None, 0))
        return (layout, rows) if layout is not None and identity == file.identity else None

    def _digest(self, file: InputFile) -> str:
        state = (file, file.seen)
        if state not in self._digests:
            self._digests[state] = digest_of(file)
        return self._digests[state]

    def _read_records(self, model: str) -> Mapping[str, InputFile]:
        """The files in the records of all runs since the latest with this model, as the latest found each, by URL."""
        found: dict[str, InputFile] = {}
        for file in (file for entry in self._entries(model) for file in _files(entry)):
            found.setdefault(file.url, file)
        return found

    def _read_layouts(self, model: str) -> Mapping[str, tuple[str, Layout | None, int]]:
        """By URL, the identity of each file whose rows have to be looked for, how they are found, and their number."""
        found: dict[str, tuple[str, Layout | None, int]] = {}
        for source in (one for entry in self._entries(model) for split in SPLITS for one in _sources(entry, split)):
            if source.get("layout") is not None:
                try:
                    file, rows = _FILE.validate_python(source["file"]), int(str(source["rows"]))
                    found.setdefault(file.url, (file.identity, _LAYOUT.validate_python(source["layout"]), rows))
                except (KeyError, ValueError, ValidationError):
                    continue
        return found

    def _entries(self, model: str) -> Iterator[ModelRecord]:
        """What all runs since the latest with this model recorded of models, the latest first."""
        for run_id in self._earlier.ids:
            models = self._earlier.record(run_id).models
            yield from models.values()
            if model in models:
                break


def _files(entry: ModelRecord) -> Iterator[InputFile]:
    """All files of a model in a run's record; those of the sampling set are in the recipe of its rows alone."""
    yield from entry.sources.values()
    for source in _sources(entry, "sampling"):
        try:
            yield _FILE.validate_python(source["file"])
        except (KeyError, ValidationError):
            continue


def _sources(entry: ModelRecord, split: str) -> Iterator[dict[str, JsonValue]]:
    """The sources of a split, as the recipe of a model's rows has them."""
    sources: JsonValue = (entry.rows or {}).get(split)
    yield from (source for source in sources if isinstance(source, dict)) if isinstance(sources, list) else ()
