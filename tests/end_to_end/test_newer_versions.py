"""What a newer version wrote, in a root of a release: each schema at rest is refused with a sentence, never misread."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.commits import CommitLog
from infra.errors import Corrupt
from infra.formats.documents import SEAL
from infra.formats.tables import encode_arrow, open_parquet
from infra.storage.storage import Storage
from madcore import BlockMoment, RowLayout
from pipeline.artifacts.chains import read_draws, read_snapshots, read_state
from pipeline.artifacts.curvature import read_moment, read_reference_rows, read_whitening
from pipeline.artifacts.samples import read_statuses
from pipeline.artifacts.scores import PART_FORMAT
from pipeline.artifacts.screening import read_screening
from pipeline.artifacts.trusted import read_trusted
from pipeline.results.audit import open_audit
from pipeline.root.documents import read_document
from pipeline.root.records import OutcomeRecord, RunRecord
from tests.data.roots_of_releases import ROOTS, releases

NEWER = 99


LAYOUT = RowLayout(("layer",), (4,))


Read = Callable[[Storage, str], object]


def newer_document(path: Path) -> None:
    """The format, or schema, of a JSON document raised."""
    document = json.loads(path.read_text())
    document.pop(SEAL, None)
    version = "schema" if "schema" in document else "format"
    assert document[version] < NEWER
    path.write_text(json.dumps({**document, version: NEWER}))


def newer_array(path: Path) -> None:
    """The format of an array raised."""
    metadata = json.loads(path.read_text())
    metadata["attributes"] = {
        **{key: value for key, value in metadata["attributes"].items() if "seal" not in key},
        "format": NEWER,
    }
    path.write_text(json.dumps(metadata))


def newer_table(path: Path) -> None:
    """The version of an Arrow or Parquet table raised."""
    arrow = path.suffix == ".arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all() if arrow else pq.read_table(path)
    newer = table.replace_schema_metadata({"mad.table": table.schema.metadata[b"mad.table"], "mad.version": str(NEWER)})
    if arrow:
        path.write_bytes(encode_arrow(newer))
    else:
        sink = io.BytesIO()
        pq.write_table(newer, sink)
        path.write_bytes(sink.getvalue())


def read_part(storage: Storage, path: str) -> None:
    """A score part, as the reporting stage opens it."""
    with storage.open(path) as handle:
        PART_FORMAT.check(open_parquet(handle, path).schema_arrow, path)


def above(levels: int, read: Read) -> Read:
    """Reads the folder so many levels above a file."""
    return lambda storage, path: read(storage, "/".join(path.split("/")[:-levels]))


def receipts(storage: Storage, path: str) -> object:
    """The commit log that a receipt or manifest is in."""
    return CommitLog(storage, path.rpartition("/")[0].rpartition("/")[0]).receipts()


KINDS: dict[str, tuple[str, Callable[[Path], None], Read]] = {
    "the root": ("mad.json", newer_document, lambda storage, _: open_audit(storage.url)),
    "a run": ("runs/*/_run.json", newer_document, lambda *place: read_document(*place, RunRecord)),
    "an outcome": ("runs/*/_outcome.json", newer_document, lambda *place: read_document(*place, OutcomeRecord)),
    "a summary": ("plain/summary.json", newer_document, lambda storage, _: open_audit(storage.url).summary("plain")),
    "a manifest": ("plain/scoring/*/*/manifests/*", newer_document, receipts),
    "screening": ("factored/curvature/*/split/*/screening.json", newer_document, above(1, read_screening)),
    "rows": (
        "plain/gradients/*/*/0*/*/rows/zarr.json",
        newer_array,
        lambda storage, _: open_audit(storage.url).rows("plain", "trusted"),
    ),
    "samples": ("plain/gradients/*/*/0*/*/samples.arrow", newer_table, above(1, read_statuses)),
    "a moment": (
        "factored/curvature/*/basis/*/moment/zarr.json",
        newer_array,
        above(2, lambda *place: read_moment(*place, BlockMoment.zero(LAYOUT))),
    ),
    "a factor": (
        "factored/curvature/*/factor/*/whitening/zarr.json",
        newer_array,
        above(2, lambda *place: read_whitening(*place, LAYOUT)),
    ),
    "references": ("plain/curvature/*/references-*/*/references/zarr.json", newer_array, above(2, read_reference_rows)),
    "trusted samples": ("plain/curvature/*/references-*/*/trusted.arrow", newer_table, above(1, read_trusted)),
    "a score part": ("plain/scoring/*/*/0*/*/scores.parquet", newer_table, read_part),
    "a table": (
        "plain/reporting/*/report/*/table.parquet",
        newer_table,
        lambda storage, _: open_audit(storage.url).scores("plain"),
    ),
    "a chain's state": ("traced/gradients/*/chain-*/0*/*/state/zarr.json", newer_array, above(2, read_state)),
    "snapshots": (
        "traced/gradients/*/chain-*/0*/*/snapshots/zarr.json",
        newer_array,
        above(2, lambda storage, folder: list(read_snapshots(storage, [folder]))),
    ),
    "draws": ("traced/gradients/*/chain-*/0*/*/draws.arrow", newer_table, above(1, read_draws)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_version_of_each_schema_is_refused_with_a_sentence(kind: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(ROOTS / releases()[-1] / "root", tmp_path / "root"))
    pattern, raise_version, read = KINDS[kind]
    paths = sorted(root.glob(pattern))
    assert paths, "the root has none"
    for path in paths:
        raise_version(path)
    with pytest.raises((Corrupt, OSError), match=r"upgrade mad to read it|written by a newer mad"):
        read(Storage(str(root)), str(paths[0].relative_to(root)))
