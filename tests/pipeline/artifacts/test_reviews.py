"""Stored reviews are sorted by id, so that the same reviews are the same bytes."""

from pathlib import Path

from pipeline.artifacts.reviews import encode_review, read_review
from tests.pipeline.artifacts.stores import stored


def test_they_come_back_whatever_order_they_were_given_in(tmp_path: Path) -> None:
    verdicts = {"b": "odd", "a": "benign", "": "x" * 100}
    data = encode_review(verdicts)
    assert data == encode_review(dict(reversed(verdicts.items())))
    found = read_review(stored(tmp_path, {"reviews.arrow": data}), "task/reviews.arrow")
    assert list(found.items()) == [("", "x" * 100), ("a", "benign"), ("b", "odd")]
