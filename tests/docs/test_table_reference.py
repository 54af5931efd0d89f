"""The page of outputs has every column of the published table, and the summary's fields."""

import re
from pathlib import Path

from docs.generate.tables import MEANING, table_reference
from pipeline.artifacts.scores import PUBLISHED_FORMAT
from pipeline.root.facts import Calibration, Counts
from pipeline.root.summary import LayerCoverage, Summary

PAGE = Path(__file__).parents[2] / "docs/reference/outputs.md"


def test_columns_are_those_of_the_schema() -> None:
    assert list(MEANING) == PUBLISHED_FORMAT.schema.names
    assert re.findall(r"^\| `([a-z_]+)`", table_reference(), re.MULTILINE) == PUBLISHED_FORMAT.schema.names
    assert "| `score` | `float` | yes |" in table_reference()
    assert "| `flagged` | `bool` | no |" in table_reference()


def test_every_field_of_a_summary_is_there() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## `summary.json`")[2].partition("## Pages")[0]
    names = [field.alias or name for name, field in Summary.model_fields.items()]
    assert [name for name in names if f"`{name}`" not in table] == []
    parts = [*Counts.model_fields, *Calibration.model_fields, *LayerCoverage.model_fields]
    assert [name for name in parts if f"`{name}`" not in table] == []
