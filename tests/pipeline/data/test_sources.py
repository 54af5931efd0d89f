"""Sources: files that are found, and refused by their schema where they do not fit."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.data.sources import find_sources, read_ids
from pipeline.errors import SourceError
from tests.pipeline.config.configs import MINIMAL
from tests.pipeline.data.image_files import find, picture, sources_of
from tests.pipeline.data.text_files import source_of, text_table

MISFITS = {
    "no tokens": (
        text_table([[1, 2]], [1]).drop(["input_ids"]),
        r"has no column 'input_ids' \(data\.columns\.input_ids\); columns there: id \(string\), completion_start",
    ),
    "no start": (
        text_table([[1, 2]], [1]).drop(["completion_start"]),
        r"has no column 'completion_start' \(data\.columns\.completion_start\) nor 'labels' \(data\.columns\.labels\)",
    ),
    "a truth as labels": (
        text_table([[1, 2]], [1]).append_column("labels", pa.array([1])),
        r"'labels' .* is int64, expected a list of integers; or set data\.columns\.labels: null to do without",
    ),
    "a mask that is added to scores": (
        text_table([[1, 2]], [1]).append_column("attention_mask", pa.array([[0.0, -1e9]])),
        "'attention_mask' .* expected a list of integers or booleans; or set",
    ),
    "words": (
        pa.table({"id": ["a"], "input_ids": ["some words"], "completion_start": [1]}),
        "'input_ids' .* is string, expected a list of integers",
    ),
    "lists of words": (
        pa.table({"id": ["a"], "input_ids": [["some", "words"]], "completion_start": [1]}),
        "is list<.*string>, expected a list of integers",
    ),
    "a decimal start": (
        pa.table({"id": ["a"], "input_ids": [[1, 2]], "completion_start": [1.5]}),
        "'completion_start' .* is double, expected an integer",
    ),
}


@pytest.mark.parametrize(("table", "expected"), MISFITS.values(), ids=MISFITS)
def test_a_file_without_texts_is_refused_by_its_schema(tmp_path: Path, table: pa.Table, expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        source_of(tmp_path, table)


def more(**columns: object) -> pa.Table:
    """A text with further columns."""
    table = text_table([[1, 2]], [1])
    for name, values in columns.items():
        table = table.append_column(name, pa.array([values]))
    return table


def test_columns_of_texts_are_looked_for_in_each_file(tmp_path: Path) -> None:
    assert source_of(tmp_path, more()).inputs == ("input_ids", "completion_start")
    whole = more(labels=[-100, 2], completion_end=2, attention_mask=[1, 1])
    roles = ("input_ids", "completion_start", "completion_end", "attention_mask", "labels")
    assert source_of(tmp_path, whole).inputs == roles
    assert source_of(tmp_path, whole.drop(["completion_start"])).inputs == ("input_ids", *roles[2:])
    declined = source_of(tmp_path, whole, attention_mask=None, labels=None)
    assert (declined.inputs, declined.may_be_padded) == (roles[:3], False)
    renamed = source_of(tmp_path, whole.rename_columns(["id", "input_ids", "a", "b", "c", "d"]), completion_start="a")
    assert (renamed.inputs, renamed.may_be_padded) == (roles[:2], True)


@pytest.mark.parametrize("role", ["attention_mask", "completion_start", "completion_end", "labels"])
def test_a_column_of_texts_that_the_config_names_must_be_there(tmp_path: Path, role: str) -> None:
    table = more(labels=[-100, 2]).rename_columns(["id", "input_ids", "start", "labels"])
    assert source_of(tmp_path, table).inputs == ("input_ids", "labels")
    with pytest.raises(SourceError, match=rf"has no column 'named' \(data\.columns\.{role}\); columns there: "):
        source_of(tmp_path, table, **{"labels": "labels", role: "named"})


def test_a_text_needs_one_column_that_says_where_its_completion_is(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError,
        match=r"a text needs a completion, and data\.columns\.completion_start and labels are null; name a column",
    ):
        source_of(tmp_path, more(), completion_start=None, labels=None)
    with pytest.raises(SourceError, match=r"has no column 'labels' \(data\.columns\.labels\); columns there: "):
        source_of(tmp_path, more(), completion_start=None)


@pytest.mark.parametrize(
    "name", ["token_type_ids", "position_ids", "inputs_embeds", "decoder_input_ids", "pixel_values", "completion_mask"]
)
def test_a_column_that_would_change_what_a_text_is_must_be_declined(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SourceError,
        match=rf"has a column '{name}', which would change what a sample is to its model and is not read; drop or "
        r"rename it, or list it under data\.columns\.ignored",
    ):
        source_of(tmp_path, more(**{name: [0, 0]}))
    assert source_of(tmp_path, more(**{name: [0, 0]}), ignored=[name]).inputs == ("input_ids", "completion_start")


def test_columns_that_change_nothing_are_not_looked_at(tmp_path: Path) -> None:
    table = more(
        text="a b", length=2, special_tokens_mask=[0, 0], overflow_to_sample_mapping=3, offset_mapping=[[0, 1]]
    )
    assert source_of(tmp_path, table).inputs == ("input_ids", "completion_start")


def test_a_column_that_changes_what_is_read_makes_another_source(tmp_path: Path) -> None:
    source = source_of(tmp_path, more())
    roles = ("completion_start", "completion_end", "attention_mask", "labels")
    others = [replace(source, inputs=("input_ids", role)) for role in roles]
    renamed = replace(others[2], columns=Columns(attention_mask="mask"))
    assert others[0].key == source.key == replace(source, inputs=()).key
    assert len({source.key, renamed.key, *(other.key for other in others)}) == 5


def test_a_label_or_target_of_a_text_is_not_looked_at(tmp_path: Path) -> None:
    table = (
        text_table([[1, 2]], [1])
        .append_column("label", pa.array(["rude"]))
        .append_column("target", pa.array([1.5]))
        .append_column("anomalous", pa.array([True]))
    )
    assert source_of(tmp_path, table).truth == ("anomalous",)


def test_optional_columns_are_looked_for_by_split(tmp_path: Path) -> None:
    columns = {"id": ["a"], "image": [picture(0)], "label": [1], "anomalous": [0], "target": [2]}
    assert sources_of(tmp_path, "audited", **columns)[0][0].truth == ("label", "anomalous", "target")
    assert sources_of(tmp_path, "trusted", **columns)[0][0].truth == ("label",)


def test_a_changed_file_is_another_source(tmp_path: Path) -> None:
    (one,), _ = sources_of(tmp_path, id=["a"], image=[picture(0)])
    (same,), _ = find(tmp_path, "audited", "images.parquet")
    (changed,), _ = sources_of(tmp_path, id=["a", "b"], image=[picture(0)] * 2)
    assert one.key == same.key != changed.key
    assert (len(one.key), changed.rows) == (24, 2)


def test_globs_are_sorted_and_ids_read_in_order(tmp_path: Path) -> None:
    for name, ids in (("b", ["3"]), ("a", ["1", "2"])):
        pq.write_table(pa.table({"id": ids, "image": [picture(0)] * len(ids)}), tmp_path / f"{name}.parquet")
    sources, _ = find(tmp_path, "audited", "*.parquet")
    assert [source.file.name for source in sources] == ["a.parquet", "b.parquet"]
    assert [ids for source in sources for ids in read_ids(source)] == [["1", "2"], ["3"]]
    assert list(read_ids(sources[0], 1)) == [["2"]]


WRONG: dict[str, tuple[dict[str, list[object]], str]] = {
    "no rows": ({"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())}, "has no rows"),
    "no image": ({"id": ["a"]}, r"has no column 'image' \(data.columns.image\); columns there: id \(string\)"),
    "pixels beside images": (
        {"id": ["a"], "image": [b"x"], "pixel_values": [[0.5]]},
        "has a column 'pixel_values', which would change what a sample is to its model and is not read",
    ),
    "a decimal id": ({"id": [1.5], "image": [b"x"]}, "'id' .* is double, expected a string or an integer"),
    "text as a label": (
        {"id": ["a"], "image": [b"x"], "label": ["cat"]},
        "is string, expected an integer; or set data.columns.label: null to do without",
    ),
}


@pytest.mark.parametrize(("columns", "says"), WRONG.values(), ids=WRONG)
def test_a_file_that_does_not_fit_is_refused_by_its_columns(
    tmp_path: Path, columns: dict[str, list[object]], says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        sources_of(tmp_path, **columns)


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    sources_of(tmp_path, id=["a"], image=[picture(0)])
    with pytest.raises(SourceError, match=r"data\.audited names images\.parquet twice; every file counts once"):
        find(tmp_path, "audited", "images.parquet", "*.parquet")


def test_the_other_files_are_used_where_one_cannot_be(tmp_path: Path) -> None:
    sources_of(tmp_path, id=["a"], image=[picture(0)])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    data = {"trusted": "images.parquet", "audited": ["*.parquet", "none/*.parquet"]}
    config = AuditConfig.parse({**MINIMAL, "data": data}, str(tmp_path))
    sources, refused = find_sources(config, config.models[0], "audited")
    assert [source.file.name for source in sources] == ["images.parquet"]
    assert set(refused) == {"broken.parquet", "none/*.parquet"}
    assert refused["none/*.parquet"].startswith("none/*.parquet: no file matches this glob")
