"""The section `data`: where the samples are, and how they become a model's inputs."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.sections import Paths, Raw, Section

PerChannel = Annotated[
    tuple[float, ...], BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value)
]


CHANNELS = {1: "grey", 3: "RGB"}


class Columns(Section):
    """Names of columns. A column that the config itself names must be there; a default is only looked for.

    Only columns of the task's own inputs are read: `image`, or, for a language model, `input_ids` and
    `completion_start`.
    """

    id: str = "id"
    """Column of sample ids: strings or integers, unique among the trusted samples."""

    image: str = "image"
    """Column of images: encoded bytes, or a Hugging Face image struct `{bytes, path}`. Paths are not followed."""

    input_ids: str = "input_ids"
    """Column of token ids, prompt and completion together: a list of integers per sample."""

    completion_start: str = "completion_start"
    """Column of the index of the completion's first token, 1 or more."""

    label: str | None = "label"
    """Column of class indices, optional; null to ignore it. With labels, only trusted samples that the model predicts
    correctly become references. Where the config names this column, trusted and sampling files must have it; audited
    files may lack it."""

    anomalous: str | None = "anomalous"
    """Column of booleans or integers that say which audited samples are anomalous, optional; null to ignore it. Used
    for evaluation only, never seen by a score."""

    target: str | None = "target"
    """Column of the class that an attack aims at, optional, in audited files; null to ignore it. Used for evaluation
    only, never seen by a score."""

    def insists_on(self, column: str) -> bool:
        """Whether the config itself names this column."""
        return column in self.model_fields_set and getattr(self, column) is not None


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
    """The trusted set: Parquet files of samples known to be normal. A path, a glob or a list; globs are sorted."""

    audited: Paths
    """The samples to audit: Parquet files. A path, a glob or a list; globs are sorted."""

    columns: Columns = Columns()
    """Names of the columns of these files."""

    preprocess: Preprocess = Preprocess()
    """How images become the model's input."""
