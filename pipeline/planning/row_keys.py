"""Keys of rows and of the weights that loss traces are taken at: what they depend on, and nothing else."""

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import JsonValue

from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.data.input_columns import INPUTS
from pipeline.data.sources import Source
from pipeline.inputs.images import ImageInputs
from pipeline.inputs.processed import ProcessedImages
from pipeline.inputs.tokens import TextInputs
from pipeline.keys import key_of
from pipeline.planning.probe.found import Probe
from pipeline.planning.recipe import ROWS_FORMAT

SNAPSHOTS_FORMAT = 2


def row_key(model: ModelConfig, probed: Probe, sampling: Sequence[Source]) -> str:
    """The key of a model's rows."""
    settings = _settings_of_rows(model, probed, sampling, {"sampling"})
    return key_of(format=ROWS_FORMAT, layers=list(probed.sides.rows.names), **settings)


def snapshots_key(model: ModelConfig, probed: Probe, sampling: Sequence[Source]) -> str:
    """The key of the weights that loss traces are taken at, "" without them; more draws or chains continue."""
    if model.traced is None:
        return ""
    free = {"sampling", "draws", "chains"}
    return key_of(format=SNAPSHOTS_FORMAT, **_settings_of_rows(model, probed, sampling, free))


def _settings_of_rows(
    model: ModelConfig, probed: Probe, sampling: Sequence[Source], free: set[str]
) -> dict[str, JsonValue]:
    """What rows depend on; of the estimator's settings without the free ones."""
    columns = model.data.columns.of("trusted")
    more: dict[str, JsonValue] = {}
    if sampling:
        more = {"sampling": [source.key for source in sampling], "label": columns.label}
    if isinstance(probed.inputs, ImageInputs):
        more |= {"preprocess": model.data.preprocess.model_dump(mode="json"), "input_size": list(probed.inputs.size)}
    elif isinstance(probed.inputs, ProcessedImages):
        more |= {"recipe": key_of(recipe=asdict(probed.inputs.recipe)), "input_shape": list(probed.inputs.shape)}
    elif not isinstance(probed.inputs, TextInputs):
        taken = probed.inputs.arguments
        arguments: dict[str, JsonValue] = {name: [*one.shape, one.kind] for name, one in taken.items()}
        more |= {"inputs": columns.model_dump(mode="json")["inputs"], "arguments": arguments}
    elif probed.inputs.limits.padding and columns.attention_mask is not None:
        more["padding"] = list(probed.inputs.limits.padding)
    if model.outputs == PROBABILITIES:
        more |= {"outputs": PROBABILITIES}
    return {
        "model": probed.digest,
        "task": model.task,
        "columns": {role: getattr(columns, role) for role in ("id", *INPUTS[model.samples])},
        "estimator": model.estimator.model_dump(mode="json", exclude=free),
        **more,
    }
