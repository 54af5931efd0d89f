"""What the runs of a root recorded of data files, and what identifies each file by it."""

from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import JsonValue, TypeAdapter, ValidationError

from infra.storage.identity import InputFile
from infra.storage.pins import digest_of
from pipeline.config.schema import ModelConfig
from pipeline.data.identities import by_contents, identify_again
from pipeline.root.records import ModelRecord
from pipeline.root.runs import Runs

_FILE: TypeAdapter[InputFile] = TypeAdapter(InputFile)


class KnownFiles:
    """The data files of a root's runs. Each record, and each file whose contents are asked for, is read once."""

    def __init__(self, earlier: Runs):
        """Reads nothing yet."""
        self._earlier = earlier
        self._recorded = cache(self._read_records)
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

    def _digest(self, file: InputFile) -> str:
        state = (file, file.seen)
        if state not in self._digests:
            self._digests[state] = digest_of(file)
        return self._digests[state]

    def _read_records(self, model: str) -> Mapping[str, InputFile]:
        """The files in the records of all runs since the latest with this model, as the latest found each, by URL."""
        found: dict[str, InputFile] = {}
        for run_id in self._earlier.ids:
            models = self._earlier.record(run_id).models
            for file in (file for entry in models.values() for file in _files(entry)):
                found.setdefault(file.url, file)
            if model in models:
                break
        return found


def _files(entry: ModelRecord) -> Iterator[InputFile]:
    """All files of a model in a run's record; those of the sampling set are in the recipe of its rows alone."""
    yield from entry.sources.values()
    sampling: JsonValue = (entry.rows or {}).get("sampling")
    for source in sampling if isinstance(sampling, list) else ():
        try:
            yield _FILE.validate_python(source["file"] if isinstance(source, dict) else None)
        except (KeyError, ValidationError):
            continue
