"""Durations as people write them."""

import pytest

from pipeline.config.durations import parse_duration
from pipeline.errors import ConfigError

WRITTEN = {
    "45s": 45,
    "90m": 5400,
    "2h30m": 9000,
    "30d": 30 * 86400,
    "1w2d3h4m5s": 604800 + 2 * 86400 + 3 * 3600 + 245,
    "1.5h": 5400,
    "0s": 0,
    " 2H ": 7200,
}


NONE = (
    "",
    "h",
    "90",
    "30m2h",
    "2h2h",
    "-5m",
    "5 m",
    "1e3s",
    "inf",
    "nand",
    "2.h",
    "٣m",
    "5m\n6s",
    "9" * 40 + "s",
    "1y",
)


@pytest.mark.parametrize("text", WRITTEN)
def test_a_duration_is_numbers_with_units(text: str) -> None:
    assert parse_duration(text) == WRITTEN[text]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a duration; write numbers with the units .*: 45s, 90m, 2h30m, 30d"):
        parse_duration(text)


def test_more_than_a_century_is_refused() -> None:
    with pytest.raises(ConfigError, match="'999999999w' is longer than 36,600 days"):
        parse_duration("999999999w")
