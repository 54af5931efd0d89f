"""Reviews: a table of ids and verdicts, or a complaint that says what is wrong with it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.audit_config import AuditConfig
from pipeline.data.reviews import read_reviews
from pipeline.errors import ConfigError
from tests.pipeline.config.configs import MINIMAL


def reviews(folder: Path, name: str | None) -> dict[str, str]:
    return read_reviews(AuditConfig.parse({**MINIMAL, "review": name}, str(folder)))


def test_none_are_read_where_the_config_names_no_file(tmp_path: Path) -> None:
    assert reviews(tmp_path, None) == {}


def test_every_format_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("id,by,verdict\n007,me, benign \nx,me,odd\n007,you,benign\n")
    pq.write_table(pa.table({"sample_id": ["007", "x"], "verdict": ["benign", "odd"]}), tmp_path / "r.parquet")
    lines = ('{"id": "007", "verdict": "benign", "by": {"name": "me"}}', '{"id": "x", "verdict": "odd"}')
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    for name in ("r.csv", "r.parquet", "r.jsonl"):
        assert reviews(tmp_path, name) == {"007": "benign", "x": "odd"}


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7], "verdict": ["odd"]}), tmp_path / "r.parquet")
    assert reviews(tmp_path, "r.parquet") == {"7": "odd"}


def test_ids_and_verdicts_may_have_any_type_that_carries_them(tmp_path: Path) -> None:
    verdicts = pa.array(["odd", "benign"], pa.string_view()).cast(pa.string()).dictionary_encode()
    pq.write_table(pa.table({"id": pa.array([7.0, 8.0]), "verdict": verdicts}), tmp_path / "r.parquet")
    assert reviews(tmp_path, "r.parquet") == {"7": "odd", "8": "benign"}
    pq.write_table(pa.table({"id": [7.0, 7.5], "verdict": verdicts}), tmp_path / "r.parquet")
    with pytest.raises(
        ConfigError, match=r"review: r\.parquet: row 1 of the column id holds 7\.5, which is no whole number; expected"
    ):
        reviews(tmp_path, "r.parquet")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("verdict\nodd\n", "has no column sample_id or id; columns there: verdict"),
        ("id\na\n", "has no column verdict; columns there: id"),
        ("id,verdict,verdict\na,b,c\n", "has several columns named 'verdict'; rename all but one"),
        ("id,verdict\na,\n", "row 0 has no verdict; fill it in, or remove the row"),
        ("id,verdict\na,odd\n,odd\n", "row 1 has no sample id"),
        ("id,verdict\na,odd\na,fine\n", "has two verdicts on sample 'a', 'odd' and, in row 1, 'fine'; keep one"),
        (f"id,verdict\na,{'x' * 101}\n", "row 0 has 101 characters, at most 100 are kept; shorten it"),
        (
            "id,verdict\na\n",
            r"review: r\.csv: row 0 cannot be read \(.*\); mend or remove that row; expected a file, such as CSV",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ConfigError, match=says):
        reviews(tmp_path, "r.csv")


def test_a_file_that_is_missing_or_several_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id,verdict\n")
    with pytest.raises(ConfigError, match=r"review: .*none\.csv"):
        reviews(tmp_path, "none.csv")
    with pytest.raises(ConfigError, match="2 files match this glob; name one file"):
        reviews(tmp_path, "*.csv")
