"""Which columns of a file are a model's inputs: those that it must have, those that it may have, and those not read."""

from collections.abc import Collection, Iterator

from pipeline.config.samples import Columns
from pipeline.config.schema import Samples

INPUTS: dict[Samples, tuple[str, ...]] = {
    "images": ("image",),
    "texts": ("input_ids", "completion_start"),
    "sequences": (),
    "tensors": (),
}


LOOKED_FOR = ("completion_start", "completion_end", "attention_mask", "labels")


TYPE_IDS = "token_type_ids"


MADE_TEXTS = ("messages", "prompt", "completion")  # of which a tokenizer makes tokens


OF_SEQUENCES = ("text", "input_ids", "attention_mask", TYPE_IDS)


UNREAD: dict[Samples, tuple[str, ...]] = {
    "images": ("pixel_values", "pixel_mask", "bool_masked_pos"),
    "tensors": (),
    "sequences": ("position_ids", "inputs_embeds", "head_mask", "global_attention_mask", "pixel_values"),
    "texts": (
        TYPE_IDS,
        "position_ids",
        "inputs_embeds",
        "decoder_input_ids",
        "decoder_attention_mask",
        "decoder_inputs_embeds",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "past_key_values",
        "head_mask",
        "global_attention_mask",
        "cross_attention_mask",
        "pixel_values",
        "input_features",
        "input_values",
        "cu_seqlens",
        "cu_seq_lens_q",
        "seq_idx",
        "seq_lens",
        "segment_ids",
        "label_ids",
        "label_mask",
        "loss_mask",
        "completion_mask",
        "assistant_mask",
        "assistant_masks",
    ),
}


def possible_roles(samples: Samples) -> tuple[str, ...]:
    """The roles of inputs that a file of such samples may have."""
    if samples == "sequences":
        return OF_SEQUENCES
    return (*MADE_TEXTS, "input_ids", *LOOKED_FOR) if samples == "texts" else INPUTS[samples]


def input_roles(samples: Samples, columns: Columns, present: Collection[str]) -> tuple[str, ...]:
    """The roles that are read of a file with these columns: all that a model needs, and of the others those there.

    A text needs one column that says which tokens are its completion; where none is there, `completion_start` is read.
    """
    if samples == "sequences" and columns.text is not None:
        return ("text",)
    if samples == "sequences":
        optional = ("attention_mask", TYPE_IDS)
        return ("input_ids", *(role for role in optional if getattr(columns, role) in present))
    if samples != "texts":
        return INPUTS[samples]
    made = tuple(role for role in MADE_TEXTS if getattr(columns, role) is not None)
    if made:
        return made
    found = tuple(role for role in LOOKED_FOR if getattr(columns, role) in present or columns.insists_on(role))
    if not {"completion_start", "labels"} & set(found):
        return ("input_ids", "completion_start", *found)
    return ("input_ids", *found)


def described_unread(column: str) -> str:
    """The sentence about a column of those that no role reads."""
    return (
        f"has a column {column!r}, which would change what a sample is to its model and is not read; "
        "drop or rename it, or list it under data.columns.ignored"
    )


def unread_columns(samples: Samples, columns: Columns, present: Collection[str]) -> Iterator[str]:
    """Columns that would change what a sample is to its model, and that no role reads."""
    read = {getattr(columns, role) for role in possible_roles(samples)} | set(columns.ignored)
    yield from (name for name in UNREAD[samples] if name in present and name not in read)
