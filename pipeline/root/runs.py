"""The completed runs of a root, newest first, and their documents, each read once.

A run that did not complete, or whose document is damaged, is skipped; `mad verify` names what is damaged.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from itertools import islice

from infra.errors import Corrupt
from infra.storage.storage import Storage
from pipeline.artifacts.reviews import read_review
from pipeline.errors import RootError
from pipeline.root.documents import AnyDocument, read_document
from pipeline.root.layout import outcome_file, review_file, run_file, run_summary_file, runs
from pipeline.root.records import OutcomeRecord, RunRecord
from pipeline.root.summary import Summary

RUNS_NAMED = 3


class Runs:
    """The completed runs of a root. Each document is read once."""

    def __init__(self, storage: Storage):
        """Reads nothing yet."""
        self.storage = storage
        self._ids = cache(lambda: tuple(reversed(runs(storage))))
        self.outcome = cache(self._read_outcome)
        self.record = cache(self._read_record)
        self.summary = cache(self._read_summary)
        self.reviews = cache(self._read_reviews)
        self._remembered: dict[tuple[str, str], Summary] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all runs, newest first."""
        return self._ids()

    def completed(self, until: str = "") -> Iterator[str]:
        """Ids of completed runs, newest first; none newer than `until`, where it is given."""
        return (run_id for run_id in self._ids() if (not until or run_id <= until) and self.outcome(run_id).complete)

    def summaries(self, model: str, until: str = "") -> Iterator[Summary]:
        """Summaries of a model by completed runs, newest first; none newer than `until`, where it is given."""
        for run_id in self.completed(until):
            summary = self.summary(run_id, model) if model in self.outcome(run_id).summaries else None
            if summary is not None:
                yield summary

    def remember(self, summary: Summary, model: str) -> None:
        """Take note of a run's summary of a model that was read elsewhere."""
        self._remembered[summary.run_id, model] = summary

    def failed_in_latest(self) -> frozenset[str]:
        """The models of which the latest run that ended, complete or not, could not do everything."""
        ended = next((found for run_id in self.ids if (found := self.outcome(run_id)).ended), None)
        return frozenset((*ended.failures, *ended.failed_tasks) if ended is not None else ())

    def find(self, text: str) -> str:
        """The completed run whose id begins with a text.

        Raises:
            RootError: there is none, or more than one, or it did not complete; with ids that would be right.
        """
        found = [run_id for run_id in self._ids() if run_id.startswith(text)]
        if not found:
            raise RootError(self._not_found(text))
        if len(found) > 1 and text not in found:
            such = f"the ids of {len(found):,} runs begin with {text!r}, such as {', '.join(found[:RUNS_NAMED])}"
            raise RootError(f"{self.storage.url}: {such}; give more of the id")
        run_id = text if text in found else found[0]
        if not self.outcome(run_id).complete:
            why = f"run {run_id} did not complete, so it has no results to compare with"
            raise RootError(f"{self.storage.url}: {why}; the latest that did: {self._latest()}")
        return run_id

    def _not_found(self, text: str) -> str:
        near = get_close_matches(text, self._ids(), n=1)
        hint = f"did you mean {near[0]}? The latest that completed" if near else "the latest that completed"
        return f"{self.storage.url}: there is no run {text!r}; {hint}: {self._latest()}; `mad status` lists all"

    def _latest(self) -> str:
        return ", ".join(islice(self.completed(), RUNS_NAMED)) or "none yet"

    def _read_outcome(self, run_id: str) -> OutcomeRecord:
        """An incomplete one where there is none that can be read."""
        return self._read(outcome_file(run_id), OutcomeRecord) or OutcomeRecord(complete=False)

    def _read_record(self, run_id: str) -> RunRecord:
        """An empty one where there is none that can be read."""
        return self._read(run_file(run_id), RunRecord) or RunRecord()

    def _read_summary(self, run_id: str, model: str) -> Summary | None:
        known = self._remembered.get((run_id, model))
        return known if known is not None else self._read(run_summary_file(run_id, model), Summary)

    def _read_reviews(self, run_id: str) -> Mapping[str, str]:
        """Verdicts of reviews by sample id, as a run found them; raises StorageError where they are gone or damaged."""
        return read_review(self.storage, review_file(run_id)) if self.record(run_id).review is not None else {}

    def _read(self, path: str, kind: type[AnyDocument]) -> AnyDocument | None:
        with suppress(Corrupt):
            return read_document(self.storage, path, kind)
        return None
