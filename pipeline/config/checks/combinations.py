"""Sections that make no sense together, each as a complaint that names the place and what would be right."""

from pipeline.config.checks.complaints import place_of
from pipeline.config.checks.model_sources import odd_sources
from pipeline.config.schema import ModelConfig
from pipeline.config.scoring import CLASS_MEANS
from pipeline.config.sections import Raw

MANY_OUTPUTS = ("multi_label", "regression")


def score_kind(model: ModelConfig) -> str:
    """The kind of a model's score, with `auto` resolved."""
    return model.facts.scores[0] if model.score.kind == "auto" else model.score.kind


def misfits(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Complaints about what makes no sense together in one model's sections.

    Args:
        index: of the model in the config.
        model: with the sections of the top level merged in, and `auto` not yet resolved.
        raw: the whole config, as the user wrote it.
    """
    return [
        *_internal(index, model, raw),
        *_for_the_task(index, model, raw),
        *_for_the_score(index, model, raw),
        *_for_the_estimator(index, model, raw),
        *_for_the_samples(index, model, raw),
        *odd_sources(index, model, raw),
    ]


def _internal(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """What is noted of a model is no key."""
    place = place_of(("models", index), raw)
    return [f"{place}.untrained: unknown key; did you mean control: untrained?"] if model.untrained else []


def _for_the_task(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Values that the model's task does not have."""
    chosen: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {}
    if model.traced is not None or model.score.kind != "concordance":
        chosen[("score", "kind")] = (model.score.kind, ("auto", *_scores(model)))
    if model.traced is None:
        chosen[("estimator", "measurement")] = (model.gradient.measurement, ("auto", *model.facts.measurements))
        chosen[("curvature", "kind")] = (model.curvature.kind, model.facts.curvatures)
    if model.outputs is not None:
        chosen[("outputs",)] = (model.outputs, model.facts.outputs)
    return [
        f"{place_of(('models', index, *place), raw)}: {value} makes no sense for the task {model.task}; "
        + (f"valid: {', '.join(valid)}" if valid else "leave it out")
        for place, (value, valid) in chosen.items()
        if value not in valid
    ]


def _scores(model: ModelConfig) -> list[str]:
    """The scores that a model's task and estimator can have."""
    return [kind for kind in model.facts.scores if kind != "concordance" or model.traced is not None]


def _for_the_score(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Keys of a score of another kind."""
    place, kind = place_of(("models", index, "score"), raw), score_kind(model)
    lines = []
    if model.score.q != "auto" and kind != "top_coupling":
        lines.append(f"{place}: q belongs to kind: top_coupling, not to {model.score.kind}")
    if model.score.debiased and kind not in CLASS_MEANS:
        belongs = " or ".join(CLASS_MEANS)
        lines.append(f"{place}: debiased belongs to a score of class means, {belongs}, not to {model.score.kind}")
    return lines


def _for_the_estimator(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Traces are compared as they are; concordances are of traces alone."""
    curvature, score, calibration = (
        place_of(("models", index, section), raw) for section in ("curvature", "score", "calibration")
    )
    lines = []
    if model.traced is not None and model.curvature.kind != "identity" and "curvature" in model.model_fields_set:
        lines.append(
            f"{curvature}: the estimator loss_trace compares traces as they are, without {model.curvature.kind}; "
            "leave curvature out, or set kind: identity"
        )
    if model.traced is None and model.score.kind == "concordance":
        lines.append(
            f"{score}: concordance is of loss traces, not of the estimator gradient; valid: {', '.join(_scores(model))}"
        )
    if model.score.form != "auto" and model.score.kind != "concordance":
        lines.append(f"{score}: form belongs to kind: concordance, not to {model.score.kind}")
    if model.calibration.screen and not model.screened:
        lines.append(
            f"{calibration}: screen looks at the predicted classes of gradients' rows; "
            "it needs task: classification or binary, and the estimator gradient"
        )
    if model.score.form == "class" and not model.has_classes:
        lines.append(f"{score}: form: class needs classes, and the task {model.task} has none; valid: mean")
    estimator = place_of(("models", index, "estimator"), raw)
    if model.traced is not None and not model.facts.traceable:
        lines.append(f"{estimator}: loss_trace needs a loss, which the task {model.task} has none of; valid: gradient")
    if model.traced is None and model.gradient.measured and model.task not in MANY_OUTPUTS:
        lines.append(
            f"{estimator}: measured chooses among the outputs of the tasks {' and '.join(MANY_OUTPUTS)}, and the task "
            f"is {model.task}; leave it out"
        )
    return lines


def _for_the_samples(index: int, model: ModelConfig, raw: Raw) -> list[str]:
    """Columns that are for models of another kind."""
    where, columns = place_of(("models", index, "data", "columns"), raw), model.data.columns
    lines = []
    if model.output is not None and model.is_text:
        place = place_of(("models", index), raw)
        lines.append(f"{place}: output is for models of images, texts to classify and tensors; leave it out")
    if columns.text is not None and model.is_text:
        lines.append(f"{where}: text is for classifiers of texts; the task causal_lm reads input_ids")
    made = [role for role in ("messages", "prompt", "completion") if getattr(columns, role) is not None]
    if made and not model.is_text:
        lines.append(f"{where}: {made[0]} is for the task causal_lm, and the task is {model.task}")
    elif made not in ([], ["messages"], ["prompt", "completion"]):
        lines.append(f"{where}: give either messages, or prompt and completion (here: {', '.join(made)})")
    if columns.of_sequences and not model.is_text and model.huggingface is None:
        lines.append(
            f"{where}: text and input_ids are for models that huggingface names; give inputs, such as "
            "{input_ids: ids, attention_mask: mask}, whose lists are all of one length"
        )
    if columns.of_sequences and not model.is_text and model.traced is not None:
        estimator = place_of(("models", index, "estimator"), raw)
        lines.append(f"{estimator}: loss_trace needs samples of one size, and texts are of many; valid: gradient")
    if columns.inputs is not None and (model.is_text or columns.of_sequences):
        read = "the task causal_lm reads input_ids" if model.is_text else "leave it out beside text or input_ids"
        lines.append(f"{where}: inputs is for models of tensors; {read}")
    return lines
