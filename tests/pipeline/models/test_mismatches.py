"""Weights that do not fit are counted and named, three of each kind of fault."""

from pipeline.models.mismatches import name_some


def test_three_names_and_the_count() -> None:
    assert name_some({"missing": list("abcd"), "unknown": [], "of another shape": ["x", "y", "z"]}) == (
        "4 missing: a, b, c, ...; 3 of another shape: x, y, z"
    )


def test_nothing_is_wrong() -> None:
    assert name_some({"missing": [], "unknown": []}) == ""
