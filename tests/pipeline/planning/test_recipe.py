"""What a run records of a model's rows, and a later run reads back."""

import json

from pipeline.data.texts.rows import TextLimits
from pipeline.inputs.images import ImageInputs
from pipeline.inputs.lengths import TextBytes
from pipeline.inputs.tokens import TextInputs
from pipeline.planning.recipe import RowRecipe
from tests.pipeline.planning.plans import row_recipe, source

RECORDED = [
    "format",
    "rows_format",
    "patterns",
    "snapshots_key",
    "layers",
    "sides",
    "fallback",
    "not_covered",
    "classes",
    "inputs",
    "trusted",
    "audited",
    "sampling",
    "weights",
    "rows_per_task",
    "warnings",
    "shares",
]


def test_what_is_read_back_is_what_was_recorded() -> None:
    cost = {"module": "first", "parameters_share": 0.25, "gradient_bytes": 144, "one_by_one": True}
    recipe = row_recipe(fallback={"first.weight": cost}, not_covered={"third.weight": "a hook is missing"})
    document = recipe.model_dump(mode="json")
    assert list(document) == RECORDED
    assert document["format"] == 1
    assert document["sides"]["kept"] == [[2, 4], [3, 2]]
    assert document["trusted"][0]["file"]["name"] == "trusted.parquet"
    again = RowRecipe.model_validate(json.loads(json.dumps(document)))
    assert again == recipe
    assert again.trusted[0].key == source("trusted.parquet", 20).key


def test_inputs_keep_their_kind() -> None:
    limits = TextLimits(positions=128, vocabulary=1000)
    texts = row_recipe(inputs=TextInputs(limits, TextBytes(10.0, 0.5), 4096))
    for recipe, kind in ((row_recipe(), ImageInputs), (texts, TextInputs)):
        again = RowRecipe.model_validate(recipe.model_dump(mode="json"))
        assert isinstance(again.inputs, kind) and again == recipe


def test_layers_are_found_by_name_in_their_own_order() -> None:
    recipe = row_recipe()
    assert recipe.layers_named(("second.weight", "first.weight", "none")) == recipe.layers
    assert [layer.module for layer in recipe.layers_named({"second.weight"})] == ["second"]
