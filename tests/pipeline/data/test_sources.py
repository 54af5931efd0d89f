"""Sources: files that are found, and refused by their schema where they do not fit."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import SourceError
from tests.pipeline.data.text_files import source_of, text_table

MISFITS = {
    "no tokens": (
        text_table([[1, 2]], [1]).drop(["input_ids"]),
        r"has no column 'input_ids' \(data\.columns\.input_ids\); columns there: id \(string\), completion_start",
    ),
    "no start": (
        text_table([[1, 2]], [1]).drop(["completion_start"]),
        r"has no column 'completion_start' \(data\.columns\.completion_start\)",
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


def test_a_label_or_target_of_a_text_is_not_looked_at(tmp_path: Path) -> None:
    table = (
        text_table([[1, 2]], [1])
        .append_column("label", pa.array(["rude"]))
        .append_column("target", pa.array([1.5]))
        .append_column("anomalous", pa.array([True]))
    )
    assert source_of(tmp_path, table).truth == ("anomalous",)
