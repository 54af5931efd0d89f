"""`audit.yaml` to `AuditConfig`: read, merge, check; every complaint says where, what and what would be right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, JsonValue, ValidationError

from infra.storage.urls import absolute, masked
from pipeline.config.checks.combinations import misfits, score_kind
from pipeline.config.checks.complaints import complaints, unknown_keys
from pipeline.config.curvature import CurvatureSection
from pipeline.config.on_verdict import OnVerdict, section_of
from pipeline.config.safe_yaml import LARGEST_CONFIG, parse_yaml
from pipeline.config.schema import DEFAULT_KINDS, ModelConfig
from pipeline.config.sections import MODEL_SECTIONS, Place, Raw, Section
from pipeline.errors import ConfigError

ADAPTER_LAYERS = ("*.default*",)  # as PEFT names what an adapter adds

REPLACED_WHOLE = ("columns", "preprocess", "target")


class RunSection(Section):
    """How to run; nothing here changes a score."""

    rows_per_task: Annotated[int, Field(ge=1, le=1 << 20)] = 8192
    """Samples of one task, the unit that is distributed, repeated after a failure, and reused by later runs. A change
    of it cuts the work differently, so that nothing that is stored can be reused."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """Samples that go through the model at once. Long texts share a batch with fewer others."""

    workers: Annotated[int, Field(ge=1, le=100_000)] = 2
    """Tasks that run at the same time, at most: threads of this process, or, on Ray, actors with one CPU each."""

    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker in the gradients stage; a fraction shares a GPU between workers. At 0, models run on the
    CPU."""

    memory_per_worker: ByteSize = ByteSize(4 << 30)
    """Memory that each worker may use, such as `4GiB`. A plan that needs more is refused before it starts."""

    on_nonfinite: Literal["flag", "fail"] = "flag"
    """What happens to a sample whose gradient is not finite: it is flagged (`flag`), or its model fails (`fail`)."""


class AuditConfig(Section):
    """A whole audit: its root and its models, each with all its sections."""

    root: Place
    """Where everything is kept, run after run: a folder, or an fsspec URL of a store with exclusive create, such as
    `s3://audits/zoo`. Made by the first run. Credentials come from the provider's environment, never from the
    config."""

    models: tuple[ModelConfig, ...]
    """The models to audit, at least one."""

    run: RunSection = RunSection()
    """How to run."""

    review: Place | None = None
    """A CSV or Parquet file of reviewed samples, with columns `sample_id` (or `id`) and `verdict`, any text of up to
    100 characters. Reports mark these samples and do not count them as newly flagged; no score changes."""

    on_verdict: Annotated[OnVerdict | None, BeforeValidator(section_of)] = None
    """A command or URL that is notified of each model's verdict after publication. A string is short for either."""

    folder: str = "."
    """Not a key of the file: the folder that relative paths count from, which is the file's own."""

    @classmethod
    def load(cls, path: str | Path) -> "AuditConfig":
        """Reads a YAML file. Relative paths in it count from its folder.

        Raises:
            ConfigError: with every complaint, where it is and what would be right.
        """
        return cls.parse(read_mapping(Path(path)), str(Path(path).resolve().parent))

    @classmethod
    def parse(cls, raw: Raw, folder: str = ".") -> "AuditConfig":
        """From the mapping that a YAML file holds; raises as `load`."""
        unknown = unknown_keys(raw, cls)
        if unknown:
            raise ConfigError("; ".join(unknown))
        whole: Raw = {key: value for key, value in raw.items() if key not in MODEL_SECTIONS}
        whole |= {"models": _merged_models(raw), "folder": str(Path(folder).resolve())}
        try:
            config = cls.model_validate(whole)
        except ValidationError as error:
            raise ConfigError(complaints(error, raw, cls)) from error
        names = [*(model.name for model in config.models), *(one.control_name for one in config.models if one.control)]
        repeated = sorted(name for name, times in Counter(names).items() if times > 1)
        if repeated:
            raise ConfigError(f"models: names must be unique, repeated: {', '.join(repeated)}")
        _refuse_case_twins(names)
        found = [line for index, model in enumerate(config.models) for line in misfits(index, model, raw)]
        if found:
            raise ConfigError("; ".join(dict.fromkeys(found)))
        resolved = tuple(_resolve_auto(model) for own in config.models for model in _with_control(own))
        return config.model_copy(update={"models": resolved, "root": config.locate(config.root)})

    def locate(self, path: str) -> str:
        """A path of the config as a URL or absolute path."""
        return path if "://" in path else absolute(path, self.folder)


def _with_control(model: ModelConfig) -> list[ModelConfig]:
    """A model, and its control if it asks for one."""
    if model.control is None:
        return [model]
    control = {"name": model.control_name, "control": None, "untrained": True, "weights": None}
    return [model, model.model_copy(update=control)]


def _refuse_case_twins(names: Sequence[str]) -> None:
    """Refuse names that differ in case only: some disks would keep both models in one folder."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"models: the names {other} and {name} differ in case only, and are one folder on some disks; "
                "rename one of the two"
            )


def _merged_models(raw: Raw) -> list[JsonValue]:
    """The models' mappings, each merged over the sections of the top level."""
    models = raw.get("models")
    if not isinstance(models, list) or not models or not all(isinstance(model, dict) for model in models):
        raise ConfigError(
            "models: a list of at least one model is required, each a mapping with name, architecture and weights "
            "(or huggingface)"
        )
    shared = {key: raw[key] for key in MODEL_SECTIONS if key in raw}
    return [merge(shared, model) for model in models if isinstance(model, dict)]


def merge(base: Mapping[str, JsonValue], over: Mapping[str, JsonValue]) -> Raw:
    """`over` on top of `base`, key by key.

    A mapping of another `kind`, and those of `REPLACED_WHOLE`, replace what is below.
    """
    return dict(base) | {key: _merged(key, base.get(key), value) for key, value in over.items()}


def _merged(key: str, below: JsonValue, value: JsonValue) -> JsonValue:
    if key in REPLACED_WHOLE or not isinstance(below, dict) or not isinstance(value, dict):
        return value
    other_kind = "kind" in value and value["kind"] != below.get("kind", DEFAULT_KINDS.get(key))
    return value if other_kind else merge(below, value)


def _resolve_auto(model: ModelConfig) -> ModelConfig:
    """Both spellings of a default get the same keys, so they are one spelling from here on."""
    kind = score_kind(model)
    changes: dict[str, str] = {"kind": kind, "layers": model.score.layers_form}
    if kind == "concordance" and model.score.form == "auto":
        changes["form"] = "class" if model.has_classes else "mean"
    resolved = model.model_copy(update={"score": model.score.model_copy(update=changes)})
    if model.traced is not None:
        return resolved.model_copy(update={"curvature": CurvatureSection(kind="identity")})
    own = dict[str, str | tuple[str, ...]]()
    if model.gradient.measurement == "auto":
        own["measurement"] = model.facts.measurements[0]
    if model.adapter is not None and "layers" not in model.gradient.model_fields_set:
        own["layers"] = ADAPTER_LAYERS
    return resolved.model_copy(update={"estimator": model.gradient.model_copy(update=own)})


def read_mapping(path: Path) -> Raw:
    """The mapping in a YAML file; raises as `AuditConfig.load`."""
    try:
        with path.open("rb") as file:
            raw = parse_yaml(file.read(LARGEST_CONFIG + 1))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `mad init` writes an example config") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {masked(str(error))}") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: expected a mapping with root, models, task and data, found {type(raw).__name__}; "
            "`mad init` writes an example config"
        )
    return raw
