"""The completed runs of a root, and what of their documents a history is made of.

A run that did not complete, or of which a document is damaged, is passed over; `mad verify` names what is damaged.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from itertools import islice

from infra.errors import Corrupt, Missing
from infra.formats.documents import Document, parse
from infra.storage.storage import Storage
from pipeline.artifacts.reviews import read_review
from pipeline.errors import RootError
from pipeline.root.layout import outcome_file, review_file, run_file, run_summary_file, runs
from pipeline.root.records import Record, Summary, _Outcome

RUNS_NAMED = 3


class Runs:
    """The completed runs of a root. What is read of them is read once."""

    def __init__(self, storage: Storage):
        """Reads nothing yet."""
        self.storage = storage
        self._ids = cache(lambda: tuple(reversed(runs(storage))))
        self._outcome = cache(self._read_outcome)
        self.record = cache(self._read_record)
        self.summary = cache(self._read_summary)
        self.reviews = cache(self._read_reviews)

    def completed(self, until: str = "") -> Iterator[str]:
        """Ids of completed runs, newest first; none that is newer than `until`, where it is given."""
        return (run_id for run_id in self._ids() if (not until or run_id <= until) and self._outcome(run_id).complete)

    def summaries(self, model: str, until: str = "") -> Iterator[Summary]:
        """What completed runs found of a model, newest first; none that is newer than `until`, where it is given."""
        for run_id in self.completed(until):
            summary = self.summary(run_id, model) if model in self._outcome(run_id).summaries else None
            if summary is not None:
                yield summary

    def find(self, text: str) -> str:
        """The completed run whose id begins with a text.

        Raises:
            RootError: there is none, or more than one, or it did not complete; with ids that would be right.
        """
        found = [run_id for run_id in self._ids() if run_id.startswith(text)]
        latest = ", ".join(islice(self.completed(), RUNS_NAMED)) or "none yet"
        if not found:
            near = get_close_matches(text, self._ids(), n=1)
            hint = f"did you mean {near[0]}? The latest that completed" if near else "the latest that completed"
            raise RootError(f"{self.storage.url}: there is no run {text!r}; {hint}: {latest}; `mad status` lists all")
        if len(found) > 1 and text not in found:
            raise RootError(
                f"{self.storage.url}: the ids of {len(found):,} runs begin with {text!r}, such as {', '.join(found[:RUNS_NAMED])}; give more of it"
            )
        run_id = text if text in found else found[0]
        if not self._outcome(run_id).complete:
            raise RootError(
                f"{self.storage.url}: run {run_id} did not complete, so it found nothing to compare with; the latest that did: {latest}"
            )
        return run_id

    def _read_outcome(self, run_id: str) -> _Outcome:
        return self._read(outcome_file(run_id), _Outcome) or _Outcome(complete=False)

    def _read_record(self, run_id: str) -> Record:
        return self._read(run_file(run_id), Record) or Record()

    def _read_summary(self, run_id: str, model: str) -> Summary | None:
        return self._read(run_summary_file(run_id, model), Summary)

    def _read_reviews(self, run_id: str) -> Mapping[str, str]:
        """What the table of reviews said by a run, by sample id; raises StorageError where it is gone or damaged."""
        return read_review(self.storage, review_file(run_id)) if self.record(run_id).review is not None else {}

    def _read(self, path: str, kind: type[Document]) -> Document | None:
        with suppress(Missing, Corrupt):
            return parse(self.storage.read(path), kind, self.storage.locate(path))
        return None
