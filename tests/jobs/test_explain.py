"""`mad explain`: what is behind one score, from what is published."""

from pathlib import Path

import pytest

from tests.jobs.command import Ended, Json, mad, table


@pytest.fixture
def audited(finished: tuple[Path, Ended]) -> Path:
    """A root with one audit in it, which is only read."""
    return finished[0]


def explained(root: Path, sample: str, *arguments: str) -> Ended:
    return mad("explain", root, "--model", "digits", "--sample", sample, *arguments)


def test_it_says_what_the_table_says(audited: Path) -> None:
    row: Json = max(table(audited, "digits"), key=lambda one: float(str(one["score"])))
    sample = str(row["sample_id"])
    document = explained(audited, sample, "--output", "json", "--top", "3").document
    (entry,) = document["rows"] if isinstance(document["rows"], list) else ()
    assert isinstance(entry, dict) and isinstance(row["top_trusted"], list) and isinstance(row["layer_scores"], list)
    assert {name: entry[name] for name in ("score", "p_value", "q_value", "flagged", "row", "source")} == {
        name: row[name] for name in ("score", "p_value", "q_value", "flagged", "row", "source")
    }
    assert entry["top_trusted"] == row["top_trusted"][:3]
    largest = sorted(row["layer_scores"], key=lambda pair: -pair[1])[:3]
    assert entry["layers"] == [{"layer": name, "score": score} for name, score in largest]
    text = explained(audited, sample).out
    assert f"sample {sample} (row {row['row']} of audited.parquet), model digits" in text
    assert "flagged)" in text
    assert (
        "None of 36 calibration samples scores at least this high, "
        "so a normal sample would with probability at most 0.027 (once in 37)." in text
    )
    assert all(str(trusted["sample_id"]) in text for trusted in row["top_trusted"])


def test_an_unknown_sample_is_refused_with_similar_ids(audited: Path) -> None:
    ended = explained(audited, "digit-9999")
    assert ended.code == 2
    assert "has no audited sample 'digit-9999'; similar ids: digit-" in ended.complaint


def test_an_unknown_model_is_refused_with_those_that_are_there(audited: Path) -> None:
    ended = mad("explain", audited, "--model", "other", "--sample", "digit-0001")
    assert ended.code == 2
    assert "no completed run of model 'other'; models here: digits" in ended.complaint
