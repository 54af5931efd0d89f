"""`audit.yaml` to `AuditConfig`: read, merge, check; every complaint says where, what and what would be right."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, get_args

from pydantic import BaseModel, BeforeValidator, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from infra.urls import masked
from pipeline import schema
from pipeline.alerts import OnVerdict, section_of
from pipeline.bounded_yaml import LARGEST_CONFIG, parse_yaml
from pipeline.errors import ConfigError
from pipeline.estimators import Estimator, ProjectionSection
from pipeline.schema import CLASS_MEANS, CURVATURES, MEASUREMENTS, SCORES, CurvatureSection, ModelConfig, RunSection, ScoreSection
from pipeline.sections import Place, Section

MODEL_SECTIONS = ("task", "data", "estimator", "curvature", "score", "calibration")
COMPLAINTS_SHOWN, LONGEST_SHOWN = 100, 150
REPLACED_WHOLE = ("columns", "preprocess", "target")
TAGS = ("relative_mean", "absolute", "gradient", "loss_trace")  # of kinds, which pydantic puts into places
_KINDS: dict[str, type[Section]] = {
    "estimator": Estimator,
    "projection": ProjectionSection,
    "curvature": schema.CurvatureSection,
    "damping": schema.RelativeMean,
    "score": ScoreSection,
}
DEFAULT_KINDS: dict[str, type[Section]] = {name: section.model_fields["kind"].default for name, section in _KINDS.items()}
Raw = dict[str, JsonValue]


class AuditConfig(Section):
    """A whole audit: its root and its models, each with all its sections."""

    root: Place
    models: tuple[ModelConfig, ...]
    run: RunSection = RunSection()
    review: Place | None = None
    on_verdict: Annotated[OnVerdict | None, BeforeValidator(section_of)] = None
    folder: str = "."

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
        unknown = [key for key in raw if key not in _valid_keys(())]
        if unknown:
            raise ConfigError("; ".join(f"{key}: {_remedy(key, _valid_keys(()))}" for key in unknown))
        models = raw.get("models")
        if not isinstance(models, list) or not models or not all(isinstance(model, dict) for model in models):
            raise ConfigError("models: a list of at least one model is required, each a mapping with name, architecture and weights (or huggingface)")
        shared = {key: raw[key] for key in MODEL_SECTIONS if key in raw}
        merged = [merge(shared, model) for model in models if isinstance(model, dict)]
        whole: Raw = {key: value for key, value in raw.items() if key not in MODEL_SECTIONS}
        try:
            config = cls.model_validate({**whole, "models": merged, "folder": str(Path(folder).resolve())})
        except ValidationError as error:
            raise ConfigError(_complaints(error, raw)) from error
        names = Counter(model.name for model in config.models)
        repeated = sorted(name for name, times in names.items() if times > 1)
        if repeated:
            raise ConfigError(f"models: names must be unique, repeated: {', '.join(repeated)}")
        misfits = [line for index, model in enumerate(config.models) for line in _misfits(index, model, raw)]
        if misfits:
            raise ConfigError("; ".join(dict.fromkeys(misfits)))
        resolved = tuple(_resolve_auto(model) for model in config.models)
        return config.model_copy(update={"models": resolved, "root": config.locate(config.root)})

    def locate(self, path: str) -> str:
        """A path of the config as a URL or absolute path."""
        return path if "://" in path else os.path.normpath(Path(self.folder) / Path(path).expanduser())


def merge(base: Mapping[str, JsonValue], over: Mapping[str, JsonValue]) -> Raw:
    """`over` on top of `base`, key by key; a mapping of another `kind`, and those of `REPLACED_WHOLE`, replace what is below."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and key not in REPLACED_WHOLE and not _other_kind(key, below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _other_kind(section: str, below: Raw, value: Raw) -> bool:
    default = DEFAULT_KINDS.get(section)
    return "kind" in value and value["kind"] != below.get("kind", default)


def _misfits(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """What makes no sense together, in one model's sections."""
    chosen: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    if model.traced is not None or model.score.kind != "concordance":
        chosen[("score", "kind")] = (model.score.kind, ("auto", *_scores(model)))
    if model.traced is None:
        chosen[("estimator", "measurement")] = (model.gradient.measurement, ("auto", *MEASUREMENTS[model.task]))
        chosen[("curvature", "kind")] = (model.curvature.kind, CURVATURES[model.task])
    lines = [
        f"{_where(('models', index, *place), raw)}: {value} makes no sense for the task {model.task}; valid: {', '.join(valid)}"
        for place, (value, valid) in chosen.items()
        if value not in valid
    ]
    if model.score.q != "auto" and _resolve_auto(model).score.kind != "top_coupling":
        lines.append(f"{_where(('models', index, 'score'), raw)}: q belongs to kind: top_coupling, not to {model.score.kind}")
    if model.score.debiased and _resolve_auto(model).score.kind not in CLASS_MEANS:
        place = _where(("models", index, "score"), raw)
        lines.append(f"{place}: debiased belongs to a score of class means, {' or '.join(CLASS_MEANS)}, not to {model.score.kind}")
    return [*lines, *_misfit_of_estimator(index, model, raw), *_misfit_of_code(index, model, raw)]


def _scores(model: ModelConfig) -> list[str]:
    """The scores that a model's task and estimator can have."""
    return [kind for kind in SCORES[model.task] if kind != "concordance" or model.traced is not None]


def _misfit_of_estimator(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Traces are compared as they are; concordances are of traces alone."""
    curvature, score, calibration = (_where(("models", index, section), raw) for section in ("curvature", "score", "calibration"))
    found = {
        f"{curvature}: the estimator loss_trace compares traces as they are, without {model.curvature.kind}; leave curvature out, or set kind: identity": (
            model.traced is not None and model.curvature.kind != "identity" and "curvature" in model.model_fields_set
        ),
        f"{score}: concordance is of loss traces, not of the estimator gradient; valid: {', '.join(_scores(model))}": (
            model.traced is None and model.score.kind == "concordance"
        ),
        f"{score}: form belongs to kind: concordance, not to {model.score.kind}": model.score.form != "auto" and model.score.kind != "concordance",
        f"{calibration}: screen looks at the predicted classes of gradients' rows; it needs task: classification and the estimator gradient": (
            model.calibration.screen and not model.screened
        ),
        f"{score}: form: class needs classes, and the task causal_lm has none; valid: mean": model.score.form == "class" and model.is_text,
    }
    return [line for line, applies in found.items() if applies]


def _misfit_of_code(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """A model is an architecture with weights, or a Hugging Face folder; which of them follows from the task so far."""
    where = _where(("models", index), raw)
    own = {"architecture": model.architecture, "weights": model.weights, "kwargs": model.kwargs or None}
    given = [name for name, value in own.items() if value is not None]
    if model.huggingface is None:
        missing = [name for name in ("architecture", "weights") if name not in given]
        remedy = "give architecture and weights" if model.task == "classification" else "give huggingface, the folder of a causal language model"
        if len(missing) == 2 or (model.is_text and not missing):
            return [f"{where}: {remedy}" + (f"; architecture and weights are for the task classification, not {model.task}" if not missing else "")]
        return [f"{where}.{name}: required, but not given" for name in missing]
    if given:
        return [f"{where}: give either architecture and weights, or huggingface, not both (here: huggingface, {', '.join(given)})"]
    return [] if model.is_text else [f"{where}: huggingface is for the task causal_lm, not {model.task}; set task: causal_lm, or give architecture and weights"]


def _resolve_auto(model: ModelConfig) -> ModelConfig:
    """Both spellings of a default get the same keys, so they are one spelling from here on."""
    kind = SCORES[model.task][0] if model.score.kind == "auto" else model.score.kind
    changes: dict[str, str] = {"kind": kind, "layers": model.score.layers_form}
    if kind == "concordance" and model.score.form == "auto":
        changes["form"] = "mean" if model.is_text else "class"
    resolved = model.model_copy(update={"score": model.score.model_copy(update=changes)})
    if model.traced is not None:
        return resolved.model_copy(update={"curvature": CurvatureSection(kind="identity")})
    measurement = MEASUREMENTS[model.task][0] if model.gradient.measurement == "auto" else model.gradient.measurement
    return resolved.model_copy(update={"estimator": model.gradient.model_copy(update={"measurement": measurement})})


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
        raise ConfigError(f"{path}: expected a mapping with root, models, task and data, found {type(raw).__name__}; `mad init` writes an example config")
    return raw


def _complaints(error: ValidationError, raw: Raw) -> str:
    lines = []
    for detail in error.errors(include_url=False):
        line = _complaint(detail, raw)
        if line not in lines:
            lines.append(line)
    more = len(lines) - COMPLAINTS_SHOWN
    return "; ".join([*lines[:COMPLAINTS_SHOWN], *([f"and {more:,} more complaints"] if more > 0 else [])])


def _complaint(detail: ErrorDetails, raw: Raw) -> str:
    where, kind, given = _where(detail["loc"], raw), detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        key, place = str(detail["loc"][-1]), detail["loc"][:-1]
        return f"{where}: {_remedy(key, _valid_keys(place), _elsewhere(key, _options(place)))}"
    if kind in PHRASES:
        return f"{where}: {PHRASES[kind].format(**detail.get('ctx', {}))}" + ("" if kind == "missing" else f", got {_shown(given)}")
    message = detail["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict | list) or kind == "value_error" else f", got {_shown(given)}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


PHRASES = {
    "missing": "required, but not given",
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "tuple_type": "expected a list",
    "union_tag_invalid": "kind must be one of {expected_tags}",
}


def _shown(value: object) -> str:
    """A value as the user may recognise it, without what is secret of URLs in it."""
    try:
        text = masked(repr(value))
    except ValueError:  # of a whole number with thousands of digits
        text = f"a value of type {type(value).__name__} that is too large to show"
    return text if len(text) < LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _remedy(key: object, valid: Sequence[str], elsewhere: str | None = None) -> str:
    if elsewhere:
        return f"unknown key; {elsewhere}"
    near = get_close_matches(str(key), valid, n=1)
    return "unknown key; " + (f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}")


def _elsewhere(key: str, options: Sequence[type[BaseModel]]) -> str | None:
    """Where a key would be right: in a section below, or for another kind."""
    for name, field in options[0].model_fields.items():
        for section in _sections(field.annotation):
            if key in section.model_fields and key != "kind":
                return f"did you mean '{name}.{key}'?"
    for section in options[1:]:
        if key in section.model_fields:
            return f"{key!r} belongs to kind: {section.model_fields['kind'].default}"
    return None


def _where(loc: Sequence[int | str], raw: Raw) -> str:
    """A place as the user wrote it: sections that a model inherits are named at the top level."""
    if len(loc) < 2 or loc[0] != "models":
        return ".".join(str(part) for part in loc)
    models = raw["models"]
    model = models[int(loc[1])] if isinstance(models, list) else None
    own = loc[2:3] == () or loc[2] not in MODEL_SECTIONS or (isinstance(model, dict) and loc[2] in model) or loc[2] not in raw
    rest = [str(part) for part in loc[2:] if part not in TAGS]
    name = model.get("name", loc[1]) if isinstance(model, dict) else loc[1]
    shown = name if isinstance(name, str) and name.isprintable() and len(name) < LONGEST_SHOWN else _shown(name)
    return ".".join(["models", shown, *rest] if own else rest)


def _options(loc: Sequence[int | str]) -> list[type[BaseModel]]:
    """The sections that can stand at a place, first the one that does: a place names the kind of a section that has several."""
    options: list[type[BaseModel]] = [AuditConfig]
    for part in loc:
        tagged = [section for section in options if "kind" in section.model_fields and section.model_fields["kind"].default == part]
        if tagged:
            options = [*tagged, *(section for section in options if section not in tagged)]
        elif isinstance(part, str) and part in options[0].model_fields:
            options = _sections(options[0].model_fields[part].annotation) or options
    return options


def _valid_keys(loc: Sequence[int | str]) -> list[str]:
    """The keys of the section at a place."""
    options = _options(loc)
    if options[0] is AuditConfig:
        return [key for key in AuditConfig.model_fields if key != "folder"] + list(MODEL_SECTIONS)
    return list(options[0].model_fields)


def _sections(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]
