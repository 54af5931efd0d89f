"""What a folder says of its model beside the weights: what it takes, and what its outputs are called."""

from typing import TYPE_CHECKING

from pipeline.data.folders import FolderPlace
from pipeline.models.huggingface.heads import Head, class_names
from pipeline.models.huggingface.limits import sequence_facts
from pipeline.models.huggingface.preprocessing import recipe_of
from pipeline.models.interface import Knowledge

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def knowledge_of(module: "PreTrainedModel", head: Head, place: FolderPlace) -> Knowledge:
    """What is known of a model.

    Raises:
        SourceError: the folder is not there any more.
        OSError: its processor or tokenizer cannot be read.
        ValueError: the same.
    """
    if head.inputs == "tokens":
        return Knowledge(head.inputs)
    return Knowledge(
        head.inputs,
        class_names(module.config),
        str(module.config.problem_type or ""),
        recipe_of(place.find()) if head.inputs == "images" else None,
        sequence_facts(module, place) if head.inputs == "texts" else None,
    )
