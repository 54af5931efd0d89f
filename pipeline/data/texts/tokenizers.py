"""The tokenizer of a model's folder, as every worker loads it: from the same documents, or not at all."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from infra.storage.files import digest
from pipeline.data.folders import OF_TOKENIZER, TOKENS, FolderPlace
from pipeline.data.texts.tokens import TokenIds, Tokens
from pipeline.errors import SourceError

_ENCODING = threading.Lock()  # a tokenizer's cut is a state of it


@dataclass(frozen=True)
class FolderTokenizer:
    """A tokenizer: where its folder is, the digest of its documents, and the most tokens that its model takes.

    `longest`: None where any number is taken.
    """

    place: FolderPlace
    documents: str
    longest: int | None

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Sequences of texts, special tokens included, cut as the tokenizer cuts them (`truncation=True`).

        Raises:
            SourceError: the folder's tokenizer is not the one that was planned with.
        """
        if not texts:
            return []
        with _ENCODING:
            made = _loaded(self)(
                list(texts), truncation=self.longest is not None, max_length=self.longest, return_attention_mask=False
            )
        types = made.get("token_type_ids")
        return [
            Tokens(
                np.asarray(ids, np.int64),
                None if types is None else np.asarray(types[row], np.int64),
                bool(made.encodings[row].overflowing),
            )
            for row, ids in enumerate(made["input_ids"])
        ]

    def chat(self, messages: object) -> tuple[TokenIds, int]:
        """The tokens of a conversation by the tokenizer's template, and where the last turn's begin.

        Raises:
            ValueError: it does not end with a turn of the assistant, or the template takes no such conversation.
        """
        turns = messages if isinstance(messages, list) else []
        if len(turns) < 2 or not isinstance(turns[-1], dict) or turns[-1].get("role") != "assistant":
            raise ValueError("the last of at least two messages must be the assistant's")
        with _ENCODING:
            template = _loaded(self).apply_chat_template
            before = template(turns[:-1], tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"]
            whole = template(turns, tokenize=True, return_dict=True)["input_ids"]
        return np.asarray(whole, np.int64), _common(before, whole)

    def continuation(self, prompt: str, completion: str) -> tuple[TokenIds, int]:
        """The tokens of a prompt with its completion, and where those begin that the completion has a part in."""
        with _ENCODING:
            before, whole = _loaded(self)([prompt, prompt + completion])["input_ids"]
        return np.asarray(whole, np.int64), _common(before, whole)


def _common(before: Sequence[int], whole: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    pairs = enumerate(zip(before, whole, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(before), len(whole)))


def tokenizer_documents(place: FolderPlace) -> str:
    """The digest of a folder's tokenizer; "" where it has no `tokenizer.json`.

    Raises:
        SourceError: there is no such folder.
        StorageError: it cannot be read.
    """
    folder = place.find()
    files = [folder / name for name in OF_TOKENIZER if (folder / name).is_file()]
    if folder / TOKENS not in files:
        return ""
    return digest("\n".join(f"{file.name} {digest(file.read_bytes())}" for file in files).encode())


def most_tokens(place: FolderPlace) -> int | None:
    """How many tokens a folder's tokenizer says that its model takes; None where it does not say."""
    said = int(_from(place).model_max_length)
    return None if said > 1 << 30 else said  # the library's number for none is larger


@lru_cache(maxsize=4)
def _loaded(tokenizer: FolderTokenizer) -> Any:
    if tokenizer_documents(tokenizer.place) != tokenizer.documents:
        raise SourceError(
            f"huggingface {tokenizer.place.name}: its tokenizer changed since the plan was made; run again"
        )
    return _from(tokenizer.place)


def _from(place: FolderPlace) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - of an extra, and slow to import

    return AutoTokenizer.from_pretrained(place.find(), local_files_only=True, trust_remote_code=False)
