"""Names of classes: whose names count, what contradicts, and what names and integers mean."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pytest
from pydantic import JsonValue

from pipeline.config.schema import ModelConfig
from pipeline.data.classes.features import names_in
from pipeline.data.classes.names import class_names, indices_of
from pipeline.data.columns import UnfitValue
from pipeline.data.sources import Source
from pipeline.errors import SourceError
from tests.pipeline.planning.plans import model_config, source


def labelled(*names: str, named: bool = False) -> Source:
    """A source whose integers, or whose folders, are called like this."""
    features = (("label", names),) if names else ()
    return replace(source("a.parquet", 9, "label"), features=features, named=("label",) if named else ())


def model(*labels: str) -> ModelConfig:
    data: JsonValue = {"trusted": "a", "audited": "b", "labels": [*labels]}
    return model_config(data=data)


CAT_DOG = ("cat", "dog")


@pytest.mark.parametrize(
    ("stated", "own", "trusted", "expected"),
    [
        ((), CAT_DOG, [labelled("dog", "cat")], CAT_DOG),
        (CAT_DOG, ("dog", "cat"), [], ("dog", "cat")),
        (CAT_DOG, (), [labelled("dog", "cat")], CAT_DOG),
        ((), (), [labelled("dog", "cat"), labelled()], ("dog", "cat")),
        ((), (), [labelled("dog", named=True), labelled("cat", named=True)], CAT_DOG),
        ((), (), [labelled()], ()),
    ],
)
def test_the_models_own_names_count_then_those_of_the_config_the_data_and_the_folders(
    stated: Sequence[str], own: Sequence[str], trusted: Sequence[Source], expected: Sequence[str]
) -> None:
    assert class_names(model(*stated), own, trusted) == expected


@pytest.mark.parametrize(
    ("stated", "own", "trusted", "says"),
    [
        (("cat", "owl"), CAT_DOG, [], "data.labels names the classes cat, owl, the model itself cat, dog; leave"),
        ((), ("cat", "cat"), [], "the model names the class 'cat' twice"),
        (
            (),
            (),
            [labelled("dog", "cat"), labelled(*CAT_DOG)],
            r"in different orders \(dog, cat; cat, dog\), and",
        ),
    ],
)
def test_names_that_contradict_each_other_are_refused(
    stated: Sequence[str], own: Sequence[str], trusted: Sequence[Source], says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        class_names(model(*stated), own, trusted)


@pytest.mark.parametrize(
    ("own", "column", "expected"),
    [
        (labelled(named=True), pa.array(["dog", None, "", "cat"]), [1, None, None, 0]),
        (labelled(named=True), pa.array(["dog", "cat"]).dictionary_encode(), [1, 0]),
        (labelled("dog", "cat"), pa.array([0, 1, -1, None, 7]), [1, 0, -1, None, 7]),
        (labelled("dog", "cat"), pa.array([0.0, float("nan")]), [1, None]),
        (labelled(), pa.array([0, 5]), [0, 5]),
        (labelled("dog", "owl"), pa.array([0, 0]), [1, 1]),
    ],
)
def test_values_are_classes_by_name_alone(own: Source, column: pa.Array, expected: Sequence[int | None]) -> None:
    assert indices_of(own, "label", column, CAT_DOG).to_pylist() == expected


def test_a_name_of_no_class_is_refused_with_its_row_also_behind_an_integer() -> None:
    for own, column in ((labelled(named=True), pa.array(["cat", "owl"])), (labelled("cat", "owl"), pa.array([0, 1]))):
        with pytest.raises(UnfitValue, match="row 1 holds 'owl', which no class is called; classes: cat, dog"):
            indices_of(own, "label", column, CAT_DOG)


@pytest.mark.parametrize("document", ["", "[]", "{}", '{"info": {"features": []}}', "[" * 100_000, '{"info": null}'])
def test_a_description_of_another_form_names_nothing(document: str) -> None:
    assert names_in(document) == {}


def test_only_labels_of_classes_are_named() -> None:
    described = (
        '{"info": {"features": {"a": {"_type": "ClassLabel", "names": ["x"]}, "b": {"_type": "ClassLabel"}, "c": 3}}}'
    )
    assert names_in(described) == {"a": ("x",)}
