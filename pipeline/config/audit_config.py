"""`audit.yaml` to `AuditConfig`: read, merge, check; every complaint says where, what and what would be right."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, JsonValue, ValidationError

from infra.storage.urls import masked
from pipeline.config import schema
from pipeline.config.complaints import complaints, place_of, unknown_keys
from pipeline.config.estimators import Estimator, ProjectionSection
from pipeline.config.on_verdict import OnVerdict, section_of
from pipeline.config.safe_yaml import LARGEST_CONFIG, parse_yaml
from pipeline.config.schema import (
    CLASS_MEANS,
    CURVATURES,
    MEASUREMENTS,
    SCORES,
    CurvatureSection,
    ModelConfig,
    RunSection,
    ScoreSection,
)
from pipeline.config.sections import MODEL_SECTIONS, Place, Raw, Section
from pipeline.errors import ConfigError

REPLACED_WHOLE = ("columns", "preprocess", "target")


_KINDS: dict[str, type[Section]] = {
    "estimator": Estimator,
    "projection": ProjectionSection,
    "curvature": schema.CurvatureSection,
    "damping": schema.RelativeMean,
    "score": ScoreSection,
}


DEFAULT_KINDS: dict[str, type[Section]] = {
    name: section.model_fields["kind"].default for name, section in _KINDS.items()
}


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
        unknown = unknown_keys(raw, cls)
        if unknown:
            raise ConfigError("; ".join(unknown))
        models = raw.get("models")
        if not isinstance(models, list) or not models or not all(isinstance(model, dict) for model in models):
            raise ConfigError(
                "models: a list of at least one model is required, each a mapping with name, architecture and weights (or huggingface)"
            )
        shared = {key: raw[key] for key in MODEL_SECTIONS if key in raw}
        merged = [merge(shared, model) for model in models if isinstance(model, dict)]
        whole: Raw = {key: value for key, value in raw.items() if key not in MODEL_SECTIONS}
        try:
            config = cls.model_validate({**whole, "models": merged, "folder": str(Path(folder).resolve())})
        except ValidationError as error:
            raise ConfigError(complaints(error, raw, cls)) from error
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
        if (
            isinstance(below, dict)
            and isinstance(value, dict)
            and key not in REPLACED_WHOLE
            and not _other_kind(key, below, value)
        ):
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
        f"{place_of(('models', index, *place), raw)}: {value} makes no sense for the task {model.task}; valid: {', '.join(valid)}"
        for place, (value, valid) in chosen.items()
        if value not in valid
    ]
    if model.score.q != "auto" and _resolve_auto(model).score.kind != "top_coupling":
        lines.append(
            f"{place_of(('models', index, 'score'), raw)}: q belongs to kind: top_coupling, not to {model.score.kind}"
        )
    if model.score.debiased and _resolve_auto(model).score.kind not in CLASS_MEANS:
        place = place_of(("models", index, "score"), raw)
        lines.append(
            f"{place}: debiased belongs to a score of class means, {' or '.join(CLASS_MEANS)}, not to {model.score.kind}"
        )
    return [*lines, *_misfit_of_estimator(index, model, raw), *_misfit_of_code(index, model, raw)]


def _scores(model: ModelConfig) -> list[str]:
    """The scores that a model's task and estimator can have."""
    return [kind for kind in SCORES[model.task] if kind != "concordance" or model.traced is not None]


def _misfit_of_estimator(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Traces are compared as they are; concordances are of traces alone."""
    curvature, score, calibration = (
        place_of(("models", index, section), raw) for section in ("curvature", "score", "calibration")
    )
    found = {
        f"{curvature}: the estimator loss_trace compares traces as they are, without {model.curvature.kind}; leave curvature out, or set kind: identity": (
            model.traced is not None and model.curvature.kind != "identity" and "curvature" in model.model_fields_set
        ),
        f"{score}: concordance is of loss traces, not of the estimator gradient; valid: {', '.join(_scores(model))}": (
            model.traced is None and model.score.kind == "concordance"
        ),
        f"{score}: form belongs to kind: concordance, not to {model.score.kind}": model.score.form != "auto"
        and model.score.kind != "concordance",
        f"{calibration}: screen looks at the predicted classes of gradients' rows; it needs task: classification and the estimator gradient": (
            model.calibration.screen and not model.screened
        ),
        f"{score}: form: class needs classes, and the task causal_lm has none; valid: mean": model.score.form == "class"
        and model.is_text,
    }
    return [line for line, applies in found.items() if applies]


def _misfit_of_code(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """A model is an architecture with weights, or a Hugging Face folder; which of them follows from the task so far."""
    where = place_of(("models", index), raw)
    own = {"architecture": model.architecture, "weights": model.weights, "kwargs": model.kwargs or None}
    given = [name for name, value in own.items() if value is not None]
    if model.huggingface is None:
        missing = [name for name in ("architecture", "weights") if name not in given]
        remedy = (
            "give architecture and weights"
            if model.task == "classification"
            else "give huggingface, the folder of a causal language model"
        )
        if len(missing) == 2 or (model.is_text and not missing):
            return [
                f"{where}: {remedy}"
                + (
                    f"; architecture and weights are for the task classification, not {model.task}"
                    if not missing
                    else ""
                )
            ]
        return [f"{where}.{name}: required, but not given" for name in missing]
    if given:
        return [
            f"{where}: give either architecture and weights, or huggingface, not both (here: huggingface, {', '.join(given)})"
        ]
    return (
        []
        if model.is_text
        else [
            f"{where}: huggingface is for the task causal_lm, not {model.task}; set task: causal_lm, or give architecture and weights"
        ]
    )


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
        raise ConfigError(
            f"{path}: expected a mapping with root, models, task and data, found {type(raw).__name__}; `mad init` writes an example config"
        )
    return raw
