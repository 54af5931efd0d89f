"""Numbers, durations, dates and mappings as text."""

import pytest

from pipeline.publication.filters import duration, embedded, flatten, number, percent, tone, visible, when


def test_numbers_are_short() -> None:
    values = (None, 0, 1234567, 0.99, 99.99, 1234.5, -0.125, 1e-7, 1e308)
    assert [number(value) for value in values] == [
        "-",
        "0",
        "1,234,567",
        "0.990",
        "100",
        "1,234",
        "-0.125",
        "1.00e-07",
        "1.00e+308",
    ]


def test_shares_times_and_dates_are_for_people() -> None:
    assert (
        " ".join(percent(share) for share in (None, 0.0, 0.01, 0.2048, 1.0)).replace("\N{NO-BREAK SPACE}", "")
        == "- 0% 1% 20.5% 100%"
    )
    times = (None, 0.431, 90.0, 600.0, 9000.0, 4.4e6)
    assert (
        " ".join(duration(time) for time in times).replace("\N{NO-BREAK SPACE}", "") == "- 0.431s 90s 10min 2.5h 1,222h"
    )
    assert [when(run) for run in ("20261122T184455123Z-1a2b3c4d", "nightly", "20261399T000000-x")] == [
        "2026-11-22 18:44 UTC",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("unusual inputs", "alarm"), ("cannot tell", "unsure"), ("nothing unusual", "calm"), ("of the future", "unsure")],
)
def test_an_unknown_verdict_is_never_calm(verdict: str, expected: str) -> None:
    assert tone(verdict) == expected


def test_a_nested_mapping_becomes_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, "x"]}) == [
        ("a.b", "1"),
        ("a.c.d", "-"),
        ("e", "1, x"),
    ]


def test_only_a_png_within_the_page_is_embedded() -> None:
    png = "data:image/png;base64,iVBORw0KGgo="
    assert embedded(png) == png
    assert [embedded(uri) for uri in (None, "", "https://a/b.png", f"{png} ", "data:image/svg+xml;base64,AA==")] == [
        None
    ] * 5


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("a\x1b[31m\x07\u202eb\0") == r"a\x1b[31m\x07\u202eb\x00"
    assert visible("é\N{NO-BREAK SPACE}%\nlines\t") == "é\N{NO-BREAK SPACE}%\nlines\t"
