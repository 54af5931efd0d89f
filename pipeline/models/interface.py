"""What a kind of model tells: how to load it, its shapes, how its files are known again, and what they say of it.

A new kind is one file in `sources`: a class with these methods, named in `sources.choose`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from pipeline.data.texts.rows import TextLimits
from pipeline.data.texts.tokenizers import FolderTokenizer
from pipeline.inputs.processed import Recipe

UNTRAINED = "untrained"

InputKind = Literal["", "images", "texts", "tokens", "audio"]


@dataclass(frozen=True)
class SequenceFacts:
    """What a text classifier takes, the token that pads, and its folder's tokenizer; None where it has none."""

    limits: TextLimits
    pad: int
    tokenizer: FolderTokenizer | None


@dataclass(frozen=True)
class Knowledge:
    """What a model's own files say of it, beside the weights; "" and () where they say nothing.

    `inputs`: what it takes: images, texts to classify, tokens to predict, or audio. `class_names`: of its outputs, in
    order. `problem`: Hugging Face's `problem_type`, such as `multi_label_classification`. `recipe`: how its images
    become inputs. `sequences`: what a text classifier takes.
    """

    inputs: InputKind = ""
    class_names: tuple[str, ...] = ()
    problem: str = ""
    recipe: Recipe | None = None
    sequences: SequenceFacts | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model on the CPU, in eval mode, and the digest of its weights and of what gives them meaning.

    `code`: digests of further modules that its code comes from, by name.
    `source`: the code of an architecture that the config names by file, for workers that may not see that file.
    `limits`: the texts that a language model takes. `undone`: how the weights were taken out of wrappers and prefixes.
    `lacking`: which of its numbers are not finite, "" if all are; some samples may never meet them.
    `known`: what its own files say of it.
    """

    module: nn.Module
    digest: str
    code: Mapping[str, str]
    source: bytes | None = None
    limits: TextLimits | None = None
    undone: str = ""
    lacking: str = ""
    known: Knowledge = Knowledge()


@dataclass(frozen=True)
class ModelFiles:
    """What a model's files are now: a line for each, and the code of an architecture that the config names by file."""

    lines: tuple[str, ...]
    source: bytes | None = None


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Within, what torch draws at random on the CPU is the same each time; its generator is then as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class ModelSource(Protocol):
    """Where a model comes from."""

    def load(self, source: bytes | None) -> LoadedModel:
        """The model with its weights.

        Args:
            source: the code of its architecture file, where it has been read before.

        Raises:
            SourceError: naming what is wrong with the code or the weights.
        """

    def shapes(self, source: bytes | None) -> LoadedModel:
        """The model without its weights, on torch's meta device: shapes alone, whose digest is "". Raises as `load`."""

    def untrained(self, source: bytes | None) -> LoadedModel:
        """The model with the random weights that its code makes by itself, by a fixed seed. Raises as `load`."""

    def files(self) -> ModelFiles | None:
        """What its files are now, without reading weights or importing code; None where that cannot be told.

        Raises:
            SourceError: a file is not to be used; `load` says more.
            StorageError: a file is missing, or cannot be read.
        """

    def weight_bytes(self) -> int:
        """How many bytes its weights take in memory, by the sizes of files. Raises as `files`."""

    def missing_weights(self) -> str:
        """Why it can only be planned, "" where there are weights of any kind.

        Raises:
            SourceError: there is nothing to plan, either.
        """
