"""Keys of rows and of the weights that loss traces are taken at: what they depend on, and nothing else."""

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import JsonValue

from pipeline.config.samples import Columns
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.data.input_columns import INPUTS, MADE_TEXTS, OF_SEQUENCES
from pipeline.data.sources import Source
from pipeline.data.texts.rows import TextLimits
from pipeline.data.texts.tokenizers import FolderTokenizer
from pipeline.inputs.images import ImageInputs
from pipeline.inputs.model_inputs import ModelInputs
from pipeline.inputs.processed import ProcessedImages
from pipeline.inputs.sequences import SequenceInputs
from pipeline.inputs.tensors import TensorInputs
from pipeline.inputs.tokens import TextInputs
from pipeline.keys import key_of
from pipeline.planning.probe.found import Probe
from pipeline.planning.recipe import ROWS_FORMAT

SNAPSHOTS_FORMAT = 2

OF_TOKENS = tuple(role for role in OF_SEQUENCES if role != "text")


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
    more |= _settings_of_inputs(model, probed.inputs, columns)
    if model.output is not None:
        more["output"] = model.output
    if model.outputs == PROBABILITIES:
        more |= {"outputs": PROBABILITIES}
    return {
        "model": probed.digest,
        "task": model.task,
        "columns": {role: getattr(columns, role) for role in ("id", *INPUTS[model.samples])},
        "estimator": model.estimator.model_dump(mode="json", exclude=free),
        **more,
    }


def _settings_of_inputs(model: ModelConfig, inputs: ModelInputs, columns: Columns) -> dict[str, JsonValue]:
    """How samples become inputs."""
    match inputs:
        case ImageInputs():
            return {"preprocess": model.data.preprocess.model_dump(mode="json"), "input_size": list(inputs.size)}
        case ProcessedImages():
            return {"recipe": key_of(recipe=asdict(inputs.recipe)), "input_shape": list(inputs.shape)}
        case TensorInputs():
            arguments: dict[str, JsonValue] = {name: [*one.shape, one.kind] for name, one in inputs.arguments.items()}
            return {"inputs": columns.model_dump(mode="json")["inputs"], "arguments": arguments}
        case SequenceInputs():
            return {"pad": inputs.pad, **_settings_of_sequences(inputs.tokenizer, columns)}
        case TextInputs():
            return _settings_of_texts(inputs.limits, columns)


def _settings_of_texts(limits: TextLimits, columns: Columns) -> dict[str, JsonValue]:
    made: dict[str, JsonValue] = {role: getattr(columns, role) for role in MADE_TEXTS if getattr(columns, role)}
    if made:
        return {"roles": made, "tokenizer": "" if limits.tokenizer is None else limits.tokenizer.documents}
    return {"padding": list(limits.padding)} if limits.padding and columns.attention_mask is not None else {}


def _settings_of_sequences(tokenizer: FolderTokenizer | None, columns: Columns) -> dict[str, JsonValue]:
    if tokenizer is None:
        return {"roles": {role: getattr(columns, role) for role in OF_TOKENS}}
    return {"roles": {"text": columns.text}, "tokenizer": [tokenizer.documents, tokenizer.longest]}
