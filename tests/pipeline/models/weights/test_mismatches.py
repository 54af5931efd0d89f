"""Weights that do not fit are counted and named, three of each kind of fault."""

from pipeline.models.weights.mismatches import first_names, name_some


def test_three_names_and_the_count() -> None:
    assert name_some({"missing": list("abcd"), "unknown": [], "of another shape": ["x", "y", "z"]}) == (
        "4 missing: a, b, c, ...; 3 of another shape: x, y, z"
    )


def test_nothing_is_wrong() -> None:
    assert name_some({"missing": [], "unknown": []}) == ""


def test_the_first_names_of_many() -> None:
    assert first_names(["a", "b", "c"]) == "a, b, c"
    assert first_names(list("abcde")) == "a, b, c and 2 more"


def test_a_name_of_a_megabyte_is_cut() -> None:
    assert first_names(["x" * (1 << 20)]) == "x" * 300 + "..."
    assert name_some({"unknown": ["x" * (1 << 20)]}) == f"1 unknown: {'x' * 300}..."
