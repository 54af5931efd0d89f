"""The section `data`: columns that the config insists on, and preprocessing."""

import pytest
from pydantic import ValidationError

from pipeline.config.samples import Columns, Data, Preprocess


def test_a_column_is_insisted_on_where_the_config_names_it() -> None:
    columns = Columns.model_validate({"id": "key", "label": None, "target": "target"})
    insisted = {name for name in Columns.model_fields if columns.insists_on(name)}
    assert insisted == {"id", "target"}


def test_a_path_is_a_list_of_one() -> None:
    data = Data.model_validate({"trusted": "t.parquet", "audited": ["a", "b/*"]})
    assert (data.trusted, data.audited) == (("t.parquet",), ("a", "b/*"))


def test_std_must_be_positive() -> None:
    assert Preprocess(std=(0.1, 1.0, 2.0)).mean == (0.0, 0.0, 0.0)
    with pytest.raises(ValidationError, match=r"std must be positive, got \[1.0, -1.0, 1.0\]"):
        Preprocess(std=(1.0, -1.0, 1.0))
