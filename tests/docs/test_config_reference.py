"""The page of the config has every key that a config may have."""

import re

from docs.generate.config import INTERNAL, config_reference, sections
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import DataColumns
from pipeline.config.sections import Section


def all_sections() -> list[type[Section]]:
    """Every section of the package, whoever refers to it."""
    found, new = list[type[Section]](), [Section]
    while new:
        new = [below for one in new for below in one.__subclasses__() if below.__module__.startswith("pipeline.config")]
        found += new
    return found


def test_no_key_is_missing() -> None:
    shown = {key.place.rpartition(".")[2] for section in sections() for key in section.keys}
    names = {name for section in all_sections() for name in section.model_fields}
    assert names - shown == set(INTERNAL)
    twice = sum(issubclass(DataColumns, one) for one in all_sections() if one is not DataColumns)  # its keys are there
    assert len(all_sections()) - twice == len(sections()) > 10


def test_every_key_says_what_it_means() -> None:
    silent = [key.place for section in sections() for key in section.keys if len(key.description.split()) < 2]
    assert silent == []
    assert [section.place for section in sections() if not section.summary] == []


def test_defaults_are_those_of_the_models() -> None:
    defaults = {key.place: key.default for section in sections() for key in section.keys}
    assert defaults["root"] == "required"
    assert defaults["run.rows_per_task"] == f"`{AuditConfig.model_fields['run'].default.rows_per_task}`"
    assert defaults["run.memory_per_worker"] == "`4GiB`"
    assert defaults["estimator.layers"] == '`["*"]`'
    assert defaults["review"] == "`null`"


def test_values_are_listed_or_bounded() -> None:
    values = {key.place: key.values for section in sections() for key in section.keys}
    assert values["estimator.parameters"] == "`matrices`, `all`"
    assert values["estimator.projection.rank"] == "from 1, to 1,024"
    assert values["estimator.projection.seed"] == "from 0, below 2^63"
    assert values["score.q"] == "`auto`, or a number"
    assert values["calibration.target.fpr"] == "from 1e-09, below 1"


def test_a_row_of_a_table_has_four_cells() -> None:
    rows = [line for line in config_reference().splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(section.keys) for section in sections())
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
