"""The truth of audited samples, read in step with their scores."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from infra.storage.identity import InputFile
from infra.storage.pins import confirm
from pipeline.artifacts.parts import ScorePart
from pipeline.artifacts.truth import encode_truth
from pipeline.data.sources import Source, SourceReader
from pipeline.data.statuses import FLAT, NONFINITE, OK
from pipeline.data.truth import Truth, join_truth, truth_of_batches, unknown_truth

BATCH_ROWS = 65536


class TruthReader:
    """Reads truth batch by batch in the order of the table, and keeps it; nothing where no source has any.

    Each file is opened once. Close the reader, or use it as a context.
    """

    def __init__(self, sources: Mapping[str, Source], stored: Truth | None, names: Sequence[str] = ()):
        """Open nothing yet.

        Args:
            sources: the audited files, by key.
            stored: the truth of the whole table, as an earlier report kept it; None reads the sources.
            names: of the model's classes, where labels are read by them.
        """
        self._sources, self._stored, self._names, self._pieces = sources, stored, names, list[Truth]()
        self._any = any("anomalous" in source.truth for source in sources.values())
        self._seen, self._read = 0, dict[str, InputFile]()
        self._open: tuple[str, SourceReader] | None = None

    def __enter__(self) -> "TruthReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open, if any.

        Raises:
            Changed: it is not the file that was opened any more.
        """
        if self._open is not None:
            reader, self._open = self._open[1], None
            reader.close()

    def confirm(self) -> None:
        """Compare all files that were read with the plan.

        Raises:
            Changed: one is not the file that was read any more.
        """
        confirm(self._read.values())

    def read(self, part: ScorePart, batch: pa.RecordBatch) -> Truth | None:
        """The truth of a batch of a part.

        None where there is none, or no use for it: rows of a task that failed for good, whose file may be gone.
        """
        if not self._any:
            return None
        start, source = self._seen, self._sources[part.source_key]
        self._seen += batch.num_rows
        scored = any(status in (OK, FLAT, NONFINITE) for status in batch.column("status").to_pylist())
        if not scored or "anomalous" not in source.truth:
            self._pieces.append(unknown_truth(batch.num_rows))
            return None
        truth = self._read_source(source, batch) if self._stored is None else self._stored.of(start, self._seen)
        self._pieces.append(truth)
        return truth

    @property
    def files(self) -> dict[str, bytes]:
        """The file of all that was read; none where no source has any truth."""
        return encode_truth(join_truth(self._pieces)) if self._any else {}

    def _read_source(self, source: Source, batch: pa.RecordBatch) -> Truth:
        rows = batch.column("row")
        batches = self._reader(source).read(rows[0].as_py(), rows[-1].as_py() + 1)
        return truth_of_batches(source, batches, batch.num_rows, self._names)

    def _reader(self, source: Source) -> SourceReader:
        if self._open is None or self._open[0] != source.key:
            self.close()
            columns = [getattr(source.columns, role) for role in source.truth]
            self._open = source.key, source.open(columns, BATCH_ROWS)
            self._read[source.key] = source.file
        return self._open[1]
