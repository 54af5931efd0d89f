"""What an audit shows in a notebook, and its scores as a data frame."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.storage.storage import Storage
from pipeline.artifacts.scores import PUBLISHED_FORMAT, TABLE
from pipeline.planning.from_models import plan_audit
from pipeline.publication.filters import number
from pipeline.results import notebook as notebooks
from pipeline.results.audit import Audit, open_audit
from pipeline.results.scores import NEEDS
from pipeline.root.facts import Counts, ModelVerdict
from pipeline.root.layout import summary_file
from pipeline.root.mark import claim_root
from pipeline.root.summary import Summary, TableSummary
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.pipeline.publication.test_pages import summary, typed

HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture
def audit(make_config: ConfigMaker) -> Audit:
    return run_audit(plan_audit(make_config()))


def test_it_says_root_run_verdict_and_counts(audit: Audit) -> None:
    found = audit.summary("digits")
    expected = (audit.storage.url, found.run_id, "digits", found.verdict.value, str(found.counts.flagged))
    shown = [repr(audit), audit._repr_html_()]
    assert all(what in text for text in shown for what in expected)
    assert ET.fromstring(shown[1]).tag == "table"


def test_a_root_without_a_completed_run_says_so(tmp_path: Path) -> None:
    claim_root(Storage(str(tmp_path / "root")))
    assert "latest run none" in repr(open_audit(str(tmp_path / "root")))
    assert "no completed run" in notebooks.as_html("root", "", [notebooks.cells("digits", None)])


def test_no_name_becomes_markup() -> None:
    document = notebooks.as_html(HOSTILE, HOSTILE, [notebooks.cells(HOSTILE, None)])
    svg = notebooks.chart(typed({**summary(), "model": HOSTILE})).svg
    for text in (document, svg):
        assert "<script" not in text
        assert HOSTILE in "".join(ET.fromstring(text).itertext())


def test_the_chart_has_both_groups_and_the_threshold(audit: Audit) -> None:
    drawn = audit.plot_scores("digits")
    assert drawn._repr_svg_() == drawn.svg
    classes = [node.get("class") for node in ET.fromstring(drawn.svg).iter()]
    assert classes.count("calibration") == classes.count("audited") == 2 and classes.count("threshold") == 1
    assert f"threshold {number(audit.summary('digits').calibration.threshold)}" in drawn.svg


def test_a_chart_of_no_scores_says_so() -> None:
    empty = typed({**summary(), "histogram": {}, "calibration": {"threshold": None}})
    assert "No sample has a score." in notebooks.chart(empty).svg


def test_scores_are_a_data_frame_as_published(audit: Audit) -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra dask")
    frame, table = audit.scores_dataframe("digits"), audit.scores("digits").read_all()
    computed = frame.compute()
    assert list(frame.columns) == table.column_names
    assert all(isinstance(kind, pandas.ArrowDtype) for kind in frame.dtypes) and list(frame.dtypes) == list(
        computed.dtypes
    )
    for name in table.column_names:
        assert pa.chunked_array([pa.array(computed[name])]).to_pylist() == table.column(name).to_pylist()
    assert int(frame.flagged.sum().compute()) == int(np.asarray(table.column("flagged")).sum())


def test_a_partition_of_the_frame_is_a_row_group(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs the extra dask")
    storage = Storage(str(tmp_path / "root"))
    claim_root(storage)
    row = {
        field.name: None
        if field.nullable
        else {"int32": 1, "int64": 1, "string": "a", "bool": True}.get(str(field.type), [])
        for field in PUBLISHED_FORMAT.schema
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row] * 25, schema=PUBLISHED_FORMAT.schema), sink, row_group_size=10)
    storage.write(f"m/reporting/{TABLE}", sink.getvalue().to_pybytes())
    found = Summary(
        counts=Counts(audited=25, flagged=0),
        verdict=ModelVerdict(value="nothing unusual"),
        run_id="r",
        table=TableSummary(bytes=1, sha256="0"),
        report_folder="m/reporting",
    )
    storage.write(summary_file("m"), found.encode())
    frame = open_audit(storage.url).scores_dataframe("m")
    assert list(frame.map_partitions(len).compute()) == [10, 10, 5]


def test_without_pandas_the_error_says_what_to_install(audit: Audit) -> None:
    try:
        import pandas  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(ImportError) as raised:
            audit.scores_dataframe("digits")
        assert str(raised.value) == NEEDS and "pip install '.[dask]'" in NEEDS
    else:
        pytest.skip("pandas is installed here")
