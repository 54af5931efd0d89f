"""The section `data`: where the samples are, and how they become a model's inputs."""

import operator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from pipeline.config.sections import Paths, Raw, Section

PerChannel = Annotated[
    tuple[float, ...], BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value)
]


UNSAID = Field(exclude_if=operator.not_)  # records of earlier versions of mad have no such key


TYPE_IDS = "token_type_ids"


CHANNELS = {1: "grey", 3: "RGB"}


TensorColumns = Annotated[dict[str, str | tuple[str, ...]], Field(min_length=1)]


class Columns(Section):
    """Names of columns. A column that the config itself names must be there; a default is only looked for.

    Only columns of the task's own inputs are read: `image`, or, for a language model, `input_ids` and those that say
    which of its tokens are padding and which are the completion.
    """

    id: str = "id"
    """Column of sample ids: strings or integers, unique among the trusted samples. Where the config does not name it
    and a file has none, a sample's id is its file and its row: `trusted.csv#17`."""

    image: str | None = "image"
    """Column of images: encoded bytes, or a Hugging Face image struct `{bytes, path}`. Paths are not followed. null,
    where there are no images, as where the config names `input_ids` and not this column."""

    text: Annotated[str | None, UNSAID] = None
    """Column of texts, for a text classifier: its folder's own tokenizer makes tokens of them, and cuts them to the
    length that the model takes."""

    messages: Annotated[str | None, UNSAID] = None
    """Column of conversations, for a language model: lists of `{role, content}`, whose last turn, the assistant's, is
    the completion. The template of its folder's tokenizer makes tokens of them."""

    prompt: Annotated[str | None, UNSAID] = None
    """Column of prompts, for a language model, together with `completion`: the folder's tokenizer makes tokens of the
    two texts, one behind the other."""

    completion: Annotated[str | None, UNSAID] = None
    """Column of completions, together with `prompt`."""

    input_ids: str = "input_ids"
    """Column of token ids: a list of integers per sample; of a language model, prompt and completion together. A text
    classifier reads them where the config names this column."""

    attention_mask: str | None = "attention_mask"
    """Column that says which of the ids are tokens (1) and which are padding (0), at either end: a list as long as
    that of the ids. Padding is taken off before anything is measured. Optional; null to ignore it."""

    token_type_ids: Annotated[str | None, Field(exclude_if=lambda name: name == TYPE_IDS)] = TYPE_IDS
    """Column of the types of tokens, for a text classifier: a list as long as that of the ids. Optional; null to ignore
    it."""

    completion_start: str | None = "completion_start"
    """Column of the index of the completion's first token in the list of ids, 1 or more. Optional where a file has
    `labels`; null to ignore it."""

    completion_end: str | None = "completion_end"
    """Column of the index behind the completion's last token. Optional, and so is its value: without it, a completion
    ends with its text. null to ignore it."""

    labels: str | None = "labels"
    """Column of Hugging Face's labels, a list as long as that of the ids: the id of each token that the completion
    holds, -100 elsewhere. The completion may have gaps, as in a conversation of several turns. Where `completion_start`
    or `completion_end` is there too, they must say the same. Optional; null to ignore it."""

    inputs: Annotated[TensorColumns | None, Field(exclude_if=lambda inputs: inputs is None)] = None
    """For models of tensors, `{argument: column}`: which column each argument of the model's `forward` is made of. The
    column has numbers, or lists of numbers, all of the length that the first trusted sample has; whole numbers stay
    whole. A list of columns is stacked to one tensor of fractions, as tabular models take it. Instead of images."""

    label: str | None = "label"
    """Column of classes, by index or by name, optional; null to ignore it. With labels, only trusted samples that the
    model predicts correctly become references. Where the config names this column, trusted and sampling files must have
    it; audited files may lack it."""

    anomalous: str | None = "anomalous"
    """Column of booleans or integers that say which audited samples are anomalous, optional; null to ignore it. Used
    for evaluation only, never seen by a score."""

    target: str | None = "target"
    """Column of the class that an attack aims at, by index or by name, optional, in audited files; null to ignore it.
    Used for evaluation only, never seen by a score."""

    ignored: tuple[str, ...] = ()
    """Columns that are ignored on purpose. A file with a column that would change what a sample is to its model, such
    as `position_ids` or `token_type_ids`, is refused unless the column is listed here."""

    @property
    def of_sequences(self) -> bool:
        """Whether they are named as those of a text classifier: by text, or by token ids."""
        return self.text is not None or (self.image is None and self.inputs is None)

    @model_validator(mode="before")
    @classmethod
    def _of_tokens(cls, given: Raw) -> Raw:
        """Token ids are named instead of images."""
        if isinstance(given, dict) and given.get("input_ids") is not None and "image" not in given:
            return {**given, "image": None}
        return given

    @property
    def of_tensors(self) -> tuple[str, ...]:
        """The columns that tensors are made of, each once."""
        columns = (self.inputs or {}).values()
        return tuple(dict.fromkeys(name for own in columns for name in ([own] if isinstance(own, str) else own)))

    def insists_on(self, column: str) -> bool:
        """Whether the config itself names this column."""
        return column in self.model_fields_set and getattr(self, column) is not None


OfSplit = Annotated[
    Columns | None,
    PlainSerializer(lambda own: None if own is None else own.model_dump(mode="json", exclude_unset=True)),
    UNSAID,
]


class DataColumns(Columns):
    """Names of columns, of trusted and audited files alike, and where they differ, of each."""

    trusted: OfSplit = None
    """What differs in trusted and sampling files: the same keys, for those files only."""

    audited: OfSplit = None
    """What differs in audited files: the same keys, for those files only."""

    def of(self, split: str) -> Columns:
        """The names of columns in the files of a split: `trusted`, `audited` or `sampling`."""
        own = self.audited if split == "audited" else self.trusted
        given = {name: getattr(self, name) for name in self.model_fields_set - {"trusted", "audited"}}
        return Columns(**given | ({name: getattr(own, name) for name in own.model_fields_set} if own else {}))


class Preprocess(Section):
    """How images become the model's input: RGB or grey in [0, 1], resized if need be, minus `mean`, divided by `std`.

    Three numbers each for a model of RGB images, one each for a model of grey ones.
    """

    mean: PerChannel = (0.0, 0.0, 0.0)
    """Subtracted from each channel, after scaling to [0, 1]: three numbers for RGB, or one for grey, which makes images
    grey as Pillow's `convert("L")` does. Where only `std` is given, 0 for each channel."""

    std: PerChannel = (1.0, 1.0, 1.0)
    """What each channel is then divided by, as many numbers as `mean` has; must be positive. Where only `mean` is
    given, 1 for each channel."""

    size: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Height and width in pixels that images are resized to (bilinear) where they differ. With null, all images must
    have the size of the first trusted one."""

    @property
    def channels(self) -> int:
        """How many channels the model's images have, 3 or 1."""
        return len(self.mean)

    @model_validator(mode="before")
    @classmethod
    def _of_as_many(cls, given: Raw) -> Raw:
        """With mean or std alone, the other for as many channels."""
        if isinstance(given, dict) and ("mean" in given) != ("std" in given):
            own, other, value = ("mean", "std", 1.0) if "mean" in given else ("std", "mean", 0.0)
            if isinstance(numbers := given[own], list | tuple | int | float):
                return {**given, other: [value] * (len(numbers) if isinstance(numbers, list | tuple) else 1)}
        return given

    @model_validator(mode="after")
    def _of_channels(self) -> "Preprocess":
        if len(self.mean) != len(self.std) or len(self.mean) not in CHANNELS:
            kinds = " or ".join(f"{count} for {kind}" for count, kind in CHANNELS.items())
            raise ValueError(
                f"mean and std have a number for each channel, {kinds}; "
                f"got {len(self.mean)} in mean and {len(self.std)} in std"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {list(self.std)}")
        return self


class Data(Section):
    """Where the samples are, and how to read them."""

    trusted: Paths
    """The trusted set: files of samples known to be normal, in Parquet, Arrow, CSV, JSON lines or WebDataset tars, or
    folders of them, of images, or of a data set that was saved to disk. A path, a glob or a list; globs are sorted."""

    audited: Paths
    """The samples to audit: files or folders of the same kinds. A path, a glob or a list; globs are sorted."""

    identity: Literal["version", "contents"] = "version"
    """What tells a changed file, whose rows are computed again. `version`: its size, and its time of modification or,
    in a store, its ETag. `contents`: the SHA-256 of its bytes, so that a file that was copied again or touched keeps
    its rows; planning then reads each file that is new, or has another version, to its end."""

    columns: DataColumns = DataColumns()
    """Names of the columns of these files."""

    labels: Annotated[tuple[str, ...], UNSAID] = ()
    """Names of the model's classes in the order of its outputs, where labels are names and neither the model nor the
    data say which class is which."""

    preprocess: Preprocess = Preprocess()
    """How images become the model's input. Where nothing here differs from the defaults, a model that says so itself
    does: by the processor of its Hugging Face folder, or as timm or torchvision knows it."""

    @property
    def preprocesses(self) -> bool:
        """Whether the config itself says how images become inputs."""
        return self.preprocess != Preprocess()
