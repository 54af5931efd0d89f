"""Which models a folder may hold: by the class that its `config.json` names, and the task that each is for."""

import json
from dataclasses import dataclass
from pathlib import Path

from infra.execution.contract import describe
from pipeline.data.folders import CONFIG
from pipeline.errors import SourceError
from pipeline.models.interface import InputKind

CAUSAL = "causal_lm"


@dataclass(frozen=True)
class Head:
    """A kind of model: `described` in words, the library's class that loads it, and the mapping of its classes."""

    described: str
    auto: str
    mapping: str
    inputs: InputKind


HEADS = (
    Head("causal language model", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", "tokens"),
    Head("image classifier", "AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "images"),
    Head("audio classifier", "AutoModelForAudioClassification", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", "audio"),
    Head("text classifier", "AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "texts"),
)


def head_of(folder: Path, name: str, task: str) -> Head:
    """What a folder's model is.

    Raises:
        SourceError: its config names no class of these kinds, or one that is for another task.
    """
    named, found = architectures(folder, name), named_head(folder, name)
    if task == CAUSAL and (found is None or found.inputs == "tokens"):
        return HEADS[0]  # whose loading says what is wrong
    if found is None:
        said = f"says that it is a {', '.join(named)}, which is" if named else "names no architectures:"
        kinds = ", ".join(head.described for head in HEADS)
        raise SourceError(
            f"huggingface {name}: {CONFIG} {said} none of these: {kinds}; name a folder of such a model, or give "
            "architecture and weights"
        )
    if (found.inputs == "tokens") != (task == CAUSAL):
        valid = CAUSAL if found.inputs == "tokens" else "classification"
        article = "an" if found.described[0] in "aeiou" else "a"
        raise SourceError(
            f"huggingface {name}: {CONFIG} says that it is a {', '.join(named)}, which is {article} "
            f"{found.described}, not for the task {task}; set task: {valid}"
        )
    return found


def named_head(folder: Path, name: str) -> Head | None:
    """What a folder's config says that its model is, whatever the task; None where that is none of these.

    Raises:
        SourceError: the config is not readable.
    """
    named = architectures(folder, name)
    return next((head for head in HEADS if any(one in _classes(head) for one in named)), None)


def check_problem(settings: object, task: str, name: str) -> None:
    """Check that a classifier's config describes what the task takes.

    Args:
        settings: transformers' config.
        task: as the audit's config has it.
        name: of the folder.

    Raises:
        SourceError: with the tasks that are for such a model.
    """
    problem, outputs = getattr(settings, "problem_type", None), int(getattr(settings, "num_labels", 0) or 0)
    valid = PROBLEMS.get(str(problem), ("binary", "regression") if outputs == 1 else ("classification", "multi_label"))
    if task not in valid:
        said = (
            f"its problem_type is {problem}" if problem else "it has one output" if outputs == 1 else "it has classes"
        )
        raise SourceError(
            f"huggingface {name}: {said} in {CONFIG}, which is not for the task {task}; set task: {' or '.join(valid)}"
        )


PROBLEMS = {
    "single_label_classification": ("classification",),
    "multi_label_classification": ("multi_label",),
    "regression": ("regression",),
}


def class_names(settings: object) -> tuple[str, ...]:
    """The names of a classifier's outputs in order; () where its config has none but the library's `LABEL_0`."""
    found = getattr(settings, "id2label", None)
    if not isinstance(found, dict) or sorted(found) != list(range(len(found))):
        return ()
    names = tuple(str(found[index]) for index in range(len(found)))
    return () if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def architectures(folder: Path, name: str) -> list[str]:
    """The classes that a folder's config names; raises as `named_head`."""
    try:
        named = json.loads((folder / CONFIG).read_bytes()).get("architectures") or []
    except (ValueError, AttributeError, RecursionError) as error:
        raise SourceError(f"huggingface {name}: {CONFIG} is not readable ({describe(error)})") from error
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def _classes(head: Head) -> set[str]:
    """Names of the library's classes of a kind."""
    from transformers.models.auto import modeling_auto  # noqa: PLC0415 - of the extra, and slow to import

    names: list[str | tuple[str, ...]] = list(getattr(modeling_auto, f"{head.mapping}_NAMES").values())
    return {each for one in names for each in ((one,) if isinstance(one, str) else one)}
