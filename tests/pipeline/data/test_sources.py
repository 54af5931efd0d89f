"""Sources: files that are found, and refused by their schema where they do not fit."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.data.finding.sources import find_sources
from pipeline.data.images.reading import ImageOptions, read_images
from pipeline.data.sources import read_ids
from pipeline.data.truth import read_truth
from pipeline.errors import SourceError
from tests.pipeline.config.configs import MINIMAL
from tests.pipeline.data.images.files import find, picture, sources_of
from tests.pipeline.data.texts.files import source_of, text_table

MISFITS = {
    "no tokens": (
        text_table([[1, 2]], [1]).drop(["input_ids"]),
        r"has no column 'input_ids' \(data\.columns\.input_ids\); tokenize .*; columns there: id .*, completion_start",
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
        text_table([[1, 2]], [1]).append_column("attention_mask", pa.array([[0.0, -3.4e38]])),
        r"row 0 of the column 'attention_mask' .* holds -3\.4e\+38, .* expected a list of integers or booleans",
    ),
    "words": (
        pa.table({"id": ["a"], "input_ids": ["some words"], "completion_start": [1]}),
        "'input_ids' .* is string, expected a list of integers; tokenize the texts with the model's own tokenizer",
    ),
    "batches of one": (
        pa.table({"id": ["a"], "input_ids": [[[1, 2]]], "completion_start": [1]}),
        "'input_ids' .* expected a list of integers; if each row is a batch of one text, store the text's list itself",
    ),
    "texts only": (
        pa.table({"id": ["a"], "text": ["some words"]}),
        r"has no column 'input_ids' \(data\.columns\.input_ids\); tokenize the texts .*; columns there: .*, text",
    ),
    "lists of words": (
        pa.table({"id": ["a"], "input_ids": [["some", "words"]], "completion_start": [1]}),
        "is list<.*string>, expected a list of integers",
    ),
    "a decimal start": (
        pa.table({"id": ["a"], "input_ids": [[1, 2]], "completion_start": [1.5]}),
        r"row 0 of the column 'completion_start' \(.*\) holds 1\.5, which is no whole number; expected an integer",
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
        source_of(tmp_path, more(**{name: [0, 1]}))
    assert source_of(tmp_path, more(**{name: [0, 1]}), ignored=[name]).inputs == ("input_ids", "completion_start")


@pytest.mark.parametrize("values", [[0, 0], [0.0, None], None, [], [False, False]])
def test_token_types_of_zeros_are_no_reason_to_refuse_a_file(tmp_path: Path, values: list[float] | None) -> None:
    """Tokenizers add them to texts of one part; whether they mean something to the model, a plan finds out."""
    table = more(token_type_ids=values).cast(pa.schema([*more().schema, ("token_type_ids", pa.list_(pa.float32()))]))
    assert source_of(tmp_path, table).inputs == ("input_ids", "completion_start")


@pytest.mark.parametrize("values", [[0, 2], [0.5, 0.0], "0 0", 0])
def test_other_token_types_are_refused(tmp_path: Path, values: object) -> None:
    with pytest.raises(SourceError, match=r"^.*texts\.parquet: has a column 'token_type_ids', which would change what"):
        source_of(tmp_path, more(token_type_ids=values))


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


WRONG: dict[str, tuple[dict[str, list[object]] | pa.Table, str]] = {
    "no rows": (
        {"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())},
        r"data\.audited: no usable file; images\.parquet: has no rows",
    ),
    "no image": ({"id": ["a"]}, r"has no column 'image' \(data.columns.image\); columns there: id \(string\)"),
    "pixels beside images": (
        {"id": ["a"], "image": [b"x"], "pixel_values": [[0.5]]},
        "has a column 'pixel_values', which would change what a sample is to its model and is not read",
    ),
    "a decimal id": (
        {"id": [7.0, 1.5], "image": [b"x", b"x"]},
        r"row 1 of the column 'id' \(data\.columns\.id\) holds 1\.5, which is no whole number; "
        "expected a string or an integer",
    ),
    "a time as an id": (
        {"id": pa.array([1], pa.timestamp("us")), "image": [b"x"]},
        r"'id' .* is timestamp\[us\], expected a string or an integer",
    ),
    "an id of another spelling": (
        {"ID": ["a"], "image": [b"x"]},
        r"has no column 'id' \(data\.columns\.id\), but 'ID': set data\.columns\.id: ID; columns there",
    ),
    "an id twice": (
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array([b"x"])], ["id", "id", "image"]),
        r"has several columns named 'id' \(data\.columns\.id\); rename them",
    ),
    "a fraction as a label": (
        {"id": list("abc"), "image": [b"x"] * 3, "label": [1.0, None, 3.5]},
        r"row 2 of the column 'label' \(.*\) holds 3\.5, which is no whole number; expected an integer",
    ),
    "a label of more than 64 bits": (
        {"id": ["a"], "image": [b"x"], "label": pa.array([2**64 - 1], pa.uint64())},
        "row 0 of the column 'label' .* holds 18446744073709551615, which has more than 64 bits",
    ),
    "an outlier as scikit-learn marks it": (
        {"id": ["a", "b"], "image": [b"x"] * 2, "anomalous": [1, -1]},
        r"row 1 of the column 'anomalous' .* holds -1, which says neither 1 \(anomalous\) nor 0 \(normal\)",
    ),
    "a truth of more than two kinds": (
        {"id": ["a", "b"], "image": [b"x"] * 2, "anomalous": [1, 2]},
        r"row 1 .* holds 2, which says neither 1 \(anomalous\) nor 0 \(normal\); expected booleans, 0 and 1, or "
        r"text such as true and false; or set data\.columns\.anomalous: null to do without",
    ),
}


@pytest.mark.parametrize(("columns", "says"), WRONG.values(), ids=WRONG)
def test_a_file_that_does_not_fit_is_refused_by_its_columns(
    tmp_path: Path, columns: dict[str, list[object]] | pa.Table, says: str
) -> None:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), tmp_path / "images.parquet")
    with pytest.raises(SourceError, match=says):
        find(tmp_path, "audited", "images.parquet")


def test_other_columns_may_be_many_and_have_any_names_and_types(tmp_path: Path) -> None:
    used = {"id": ["a"], "image": [picture(0)], "label": [1]}
    odd = {"id.x": [1], "image.bytes": [b"y"], "a b": [1.5], "\u00e9": [None], "": [[{"id": 2}]], "Label": ["x"]}
    twice = pa.Table.from_arrays([pa.array([1])] * 2, ["twice"] * 2)
    table = pa.table(used)
    for name, values in [*odd.items(), *(("twice", twice.column(place)) for place in range(2))]:
        table = table.append_column(name, [values] if isinstance(values, list) else values)
    pq.write_table(table, tmp_path / "images.parquet")
    (source,), _ = find(tmp_path, "audited", "images.parquet")
    assert list(read_ids(source)) == [["a"]]
    (batch,) = read_images(source, 0, 1, ImageOptions(8, (2, 3), resize=False))
    assert (batch.ids, batch.unreadable) == (("a",), ("",))


@pytest.mark.parametrize("name", ["sample.id", "the id", "\u1e9eid", "ID"])
def test_a_column_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({name: ["a"], "image": [picture(0)]}), tmp_path / "images.parquet")
    (source,), _ = find(tmp_path, "audited", "images.parquet", columns={"id": name})
    assert list(read_ids(source)) == [["a"]]


def test_a_message_names_only_so_many_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"c{place}": [1] for place in range(1000)}), tmp_path / "wide.parquet")
    with pytest.raises(SourceError, match=r"columns there: c0 \(int64\), .*, c29 \(int64\) and 970 more$"):
        find(tmp_path, "audited", "wide.parquet")


def test_files_without_rows_are_accepted_beside_others_whatever_their_columns(tmp_path: Path) -> None:
    sources_of(tmp_path, id=["a"], image=[picture(0)])
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())}), tmp_path / "e.parquet"
    )
    pq.write_table(pa.table({"id": pa.array([], pa.null())}), tmp_path / "f.parquet")
    sources, _ = find(tmp_path, "audited", "*.parquet")
    assert [(source.file.name, source.rows) for source in sources] == [("images.parquet", 1)]
    with pytest.raises(SourceError, match=r"data\.audited names e\.parquet twice"):
        find(tmp_path, "audited", "*.parquet", "e.parquet")


def test_a_config_in_a_folder_of_any_name_finds_its_own_files(tmp_path: Path) -> None:
    for name in ("run[1] a::b#%20", "run1 a"):
        (tmp_path / name).mkdir()
        sources_of(tmp_path / name, id=[name], image=[picture(0)])
    folder = tmp_path / "run[1] a::b#%20"
    for path in ("images.parquet", "*.parquet", "../run[1] a::b#%20/i*"):
        (source,), _ = find(folder, "audited", path)
        assert list(read_ids(source)) == [["run[1] a::b#%20"]]
    config = AuditConfig.parse({**MINIMAL, "data": {"trusted": "none.parquet", "audited": "x"}}, str(folder))
    with pytest.raises(SourceError, match=r"no usable file; none\.parquet: no such file \(/.*/none\.parquet\)"):
        find_sources(config, config.models[0], "trusted")


def test_an_odd_entry_of_a_glob_is_refused_alone(tmp_path: Path) -> None:
    sources_of(tmp_path, id=["a"], image=[picture(0)])
    (tmp_path / "old.parquet").symlink_to("gone.parquet")
    config = AuditConfig.parse({**MINIMAL, "data": {"trusted": "x", "audited": "*.parquet"}}, str(tmp_path))
    sources, refused = find_sources(config, config.models[0], "audited")
    assert [source.file.name for source in sources] == ["images.parquet"]
    assert refused == {"old.parquet": "old.parquet: is a link to gone.parquet, which is not there"}


def test_columns_in_the_names_of_folders_are_read(tmp_path: Path) -> None:
    """Spark, Hive and fastparquet take a column out of the files that they partition by it."""
    for label, name in (("3", "a"), ("a%2Fb", "b"), ("__HIVE_DEFAULT_PARTITION__", "c")):
        (tmp_path / f"label={label}").mkdir()
        pq.write_table(pa.table({"id": [name], "image": [picture(0)]}), tmp_path / f"label={label}" / "images.parquet")
    sources, _ = find(tmp_path, "audited", "label=*/*.parquet")
    assert [source.truth for source in sources] == [("label",)] * 3
    assert {source.constants[0][1]: read_truth(source, 0, 1, ["a/b"]).label.tolist() for source in sources} == {
        "3": [3],
        "a/b": [0],
        "__HIVE_DEFAULT_PARTITION__": [-1],
    }
    assert find(tmp_path, "audited", "label=3/*.parquet", columns={"label": None})[0][0].truth == ()
    sources_of(tmp_path / "label=3", id=["a"], image=[picture(0)], label=[4])
    (own,), _ = find(tmp_path, "audited", "label=3/*.parquet")
    assert (own.constants, read_truth(own, 0, 1).label.tolist()) == ((), [4])


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    sources_of(tmp_path, id=["a"], image=[picture(0)])
    with pytest.raises(SourceError, match=r"data\.audited names images\.parquet twice; every file counts once"):
        find(tmp_path, "audited", "images.parquet", "*.parquet")


def test_the_other_files_are_used_where_one_cannot_be(tmp_path: Path) -> None:
    sources_of(tmp_path, id=["a"], image=[picture(0)])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    data = {"trusted": "images.parquet", "audited": ["*.parquet", "none/*.parquet", "broken.parquet"]}
    config = AuditConfig.parse({**MINIMAL, "data": data}, str(tmp_path))
    sources, refused = find_sources(config, config.models[0], "audited")
    assert [source.file.name for source in sources] == ["images.parquet"]
    assert set(refused) == {"broken.parquet", "none/*.parquet"}
    assert refused["none/*.parquet"].startswith("none/*.parquet: no file matches this glob")
