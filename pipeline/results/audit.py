"""A root opened for reading: scores, rows and summaries of its models."""

from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from infra.formats.tables import open_parquet
from infra.storage.storage import Storage
from pipeline.artifacts.scores import PUBLISHED_FORMAT, TABLE
from pipeline.errors import RootError
from pipeline.results.scores import score_frame
from pipeline.root.layout import models, report_file, runs
from pipeline.root.mark import open_root, root_storage
from pipeline.root.records import RunOutcome, read_summary
from pipeline.root.summary import Summary

if TYPE_CHECKING:
    import dask.array
    import dask.dataframe

    from madcore import Damping
    from pipeline.results.curvature import StoredCurvature
    from pipeline.results.notebook import ScoreChart


class Audit:
    """Everything in one root. `outcome` is how the run ended that returned it, None for a root that was opened."""

    def __init__(self, storage: Storage, outcome: RunOutcome | None = None):
        """Use `open_audit` or `run_audit`."""
        self.storage = storage
        self.outcome = outcome

    @property
    def models(self) -> list[str]:
        """Names of the models in the root."""
        return models(self.storage)

    def summary(self, model: str) -> Summary:
        """The summary of the latest completed run of a model.

        Raises:
            RootError: the model has none.
        """
        summary = read_summary(self.storage, model)
        if summary is None:
            here = ", ".join(self.models) or "none"
            raise RootError(f"{self.storage.url}: no completed run of model {model!r}; models here: {here}")
        return summary

    def scores(self, model: str) -> pa.RecordBatchReader:
        """The scores of the latest completed run, as published, batch by batch.

        Raises:
            RootError: the model has none.
            Corrupt: it was written by a newer version.
        """
        place = report_file(self.summary(model).report_folder, TABLE)
        file = open_parquet(self.storage.open(place), self.storage.locate(place))
        PUBLISHED_FORMAT.check(file.schema_arrow, self.storage.locate(place))
        return pa.RecordBatchReader.from_batches(PUBLISHED_FORMAT.schema, file.iter_batches())

    def rows(self, model: str, split: Literal["trusted", "audited"] = "audited") -> "dask.array.Array":
        """All rows (n, k), float32, of the latest completed run, in the order of its table.

        They are read when computed, in pieces of at most 64 MiB.

        Raises:
            RootError: the model has no completed run, or tasks of it failed, so that rows are missing.
        """
        from pipeline.results.rows import row_array, stored_rows  # noqa: PLC0415 - Dask takes a third of a second

        if split not in ("trusted", "audited"):
            raise RootError(f"there is no split {split!r}; splits: trusted, audited")
        return row_array(self.storage, stored_rows(self.storage, self.summary(model), split))

    def scores_dataframe(self, model: str) -> "dask.dataframe.DataFrame":
        """The same scores as a Dask data frame, a partition per row group (8,192 rows).

        Columns keep their Arrow types as published, nested ones too.

        Raises:
            ImportError: there is no pandas, which the extra `mad[dask]` brings.
            RootError: the model has no completed run.
            Corrupt: it was written by a newer version.
        """
        return score_frame(self.storage, report_file(self.summary(model).report_folder, TABLE))

    def plot_scores(self, model: str) -> "ScoreChart":
        """The histogram of the latest completed run's scores, which a notebook shows; `.svg` is its text.

        Raises:
            RootError: the model has none.
        """
        from pipeline.results.notebook import chart  # noqa: PLC0415 - imports the templates of pages

        return chart(self.summary(model))

    def __repr__(self) -> str:
        from pipeline.results.notebook import as_text  # noqa: PLC0415

        return as_text(self.storage.url, *self._shown())

    def _repr_html_(self) -> str:
        from pipeline.results.notebook import as_html  # noqa: PLC0415

        return as_html(self.storage.url, *self._shown())

    def _shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """The latest run's id, "" where there is none, and what is shown of each model."""
        from pipeline.results.notebook import cells  # noqa: PLC0415

        rows = [cells(name, read_summary(self.storage, name)) for name in self.models]
        return next(reversed(runs(self.storage)), ""), rows

    def curvature(self, model: str, damping: "Damping | None" = None) -> "StoredCurvature":
        """The curvature of the latest completed run, to be rebuilt by Dask from stored rows.

        It has `.moment` and `.whitening`, each with `.compute()`.

        Args:
            model: the model's name.
            damping: instead of the run's own.

        Raises:
            RootError: the model has no completed run, tasks of it failed, or its curvature is not made of moments of
            rows.
        """
        from pipeline.results.curvature import StoredCurvature  # noqa: PLC0415 - imports Dask

        return StoredCurvature.of(self.storage, self.summary(model), damping)


def open_audit(root: str) -> Audit:
    """Opens a root.

    Raises:
        RootError: it is not one, or written by a newer version.
    """
    storage = root_storage(root)
    open_root(storage)
    return Audit(storage)
