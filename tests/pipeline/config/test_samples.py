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


def test_one_mean_and_one_std_are_of_grey_images() -> None:
    grey = Preprocess.model_validate({"mean": [0.13], "std": 0.31})
    assert (grey.channels, grey.mean, grey.std) == (1, (0.13,), (0.31,))
    assert (Preprocess().channels, len(Preprocess().std)) == (3, 3)


@pytest.mark.parametrize(("given", "channels"), [({"mean": 0.5}, 1), ({"std": [0.5]}, 1), ({"mean": [0, 0, 1]}, 3)])
def test_mean_or_std_alone_decides_of_channels(given: dict[str, object], channels: int) -> None:
    preprocess = Preprocess.model_validate(given)
    assert (preprocess.channels, len(preprocess.std)) == (channels, channels)
    assert "std" in given or set(preprocess.std) == {1.0}
