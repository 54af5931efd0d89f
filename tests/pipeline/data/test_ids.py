"""Ids as text of bounded length, and lists of ids in files."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.ids import LONGEST_ID, ids_of, read_id_list
from pipeline.errors import ConfigError


def shortened(data: bytes, beginning: str) -> str:
    return f"{beginning}...sha256:{hashlib.sha256(data).hexdigest()[:32]}"


def test_integers_and_text_become_text_and_null_stays() -> None:
    assert ids_of(pa.array([7, None, -1])) == ["7", None, "-1"]
    assert ids_of(pa.array(["a", None, ""])) == ["a", None, ""]


def test_an_id_is_whole_up_to_its_bound_and_then_a_beginning_and_a_digest() -> None:
    whole, longer = "x" * LONGEST_ID, "x" * (LONGEST_ID + 1)
    assert ids_of(pa.array([whole, longer])) == [whole, shortened(longer.encode(), "x" * 200)]


def test_bytes_that_are_not_utf8_are_shown_and_told_apart() -> None:
    one, other = ids_of(pa.array([b"a\xff", b"a\xfe"], pa.binary()))
    assert one == shortened(b"a\xff", "a\ufffd")
    assert one != other


@pytest.mark.parametrize("column", ["sample_id", "id"])
def test_a_list_is_lines_or_a_column(tmp_path: Path, column: str) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfa\n\nb\r\n 7\n")
    (tmp_path / "ids.csv").write_text(f"other,{column}\n1,a\n2,\n3,007\n")
    pq.write_table(pa.table({column: [1, None, 2]}), tmp_path / "ids.parquet")
    assert read_id_list(str(tmp_path / "ids.txt")) == {"a", "b", " 7"}
    assert read_id_list(str(tmp_path / "ids.csv")) == {"a", "007"}
    assert read_id_list(str(tmp_path / "ids.parquet")) == {"1", "2"}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("none.txt", b"\n  \n", "lists no ids, so there is nothing to drop"),
        ("ids.csv", b"key\na\n", r"has no column sample_id or id \(columns there: key\); rename the column of ids"),
        ("ids.parquet", b"PAR1", "not a readable list of ids"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        read_id_list(str(tmp_path / name))
