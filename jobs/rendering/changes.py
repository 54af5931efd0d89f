"""What differs since a run, as text and as a JSON object."""

from jobs.rendering.tables import share, table
from jobs.rendering.terminal import sentence
from pipeline.data.statuses import NO_CLASS
from pipeline.publication.comparison import Flags
from pipeline.publication.drift import LEVEL, Drift
from pipeline.publication.history import ChangesSince, RunComparison
from pipeline.root.documents import JsonObject

FLAGS = ("sample_id", "source", "row", "prediction", "score", "p_value")


def since_document(found: ChangesSince) -> JsonObject:
    """The comparison as a JSON object; a model that was not audited by then is null."""
    models: JsonObject = {
        name: compared.model_dump(mode="json") if compared is not None else None
        for name, compared in found.models.items()
    }
    return {**found.zoo.model_dump(mode="json"), "models": models}


def since_text(found: ChangesSince) -> str:
    """The comparison as text.

    The zoo, a line for each model, then the new flags of each model, those no longer there, and classes that drifted.
    """
    zoo = found.zoo
    lines = [f"since run {zoo.before}:"]
    for what, names in (("added", zoo.added), ("changed", zoo.changed), ("gone", zoo.gone)):
        lines += [sentence(f"models {what}: {', '.join(names)}")] if names else []
    compared = {name: model for name, model in found.models.items() if model is not None}
    columns = [
        "model",
        "compared with",
        "verdict then",
        "verdict now",
        "audited",
        "flagged",
        "new",
        "reviewed",
        "no longer",
        "classes drifted",
        "changed",
    ]
    lines += [table(columns, [[name, *_line(model)] for name, model in compared.items()])] if compared else []
    lines += [
        sentence(f"{name}: cannot be compared: {model.problem}") for name, model in compared.items() if model.problem
    ]
    for name, model in compared.items():
        lines += _details(name, model)
    return "\n".join(lines)


def _line(compared: RunComparison) -> list[str]:
    before, after, difference = compared.before, compared.after, compared.difference
    counts = ["-"] * 4 if compared.problem else [
        f"{difference.newly_flagged.count:,}",
        f"{difference.newly_flagged.reviewed:,}",
        f"{difference.no_longer_flagged.count:,}",
        f"{len(difference.drifted_classes):,}",
    ]  # fmt: skip
    changed = "not audited since" if before.run_id == after.run_id else ", ".join(compared.changed) or "nothing"
    return [before.run_id, before.verdict, after.verdict, f"{after.audited:,}", f"{after.flagged:,}", *counts, changed]


def _details(name: str, compared: RunComparison) -> list[str]:
    difference, lines = compared.difference, list[str]()
    for what, flags in (
        ("newly flagged, the most anomalous first", difference.newly_flagged),
        ("no longer flagged", difference.no_longer_flagged),
    ):
        if flags.samples:
            lines += [
                "",
                f"{name}: {len(flags.samples):,} of {flags.count:,} samples {what}",
                table(FLAGS, _flags(flags)),
            ]
    if difference.no_longer_audited:
        lines += ["", f"{name}: {difference.no_longer_audited:,} samples flagged then are not audited now"]
    drifted = [drift for drift in difference.drift if drift.drifted]
    if drifted:
        columns = ("class", "samples", "then", "now", "median moved by", "p-value", "q-value")
        lines += [
            "",
            f"{name}: scores that moved by more than chance (q at most {LEVEL:g})",
            table(columns, [_drift(drift) for drift in drifted]),
        ]
    return lines


def _flags(flags: Flags) -> list[list[str]]:
    return [
        [flag.sample_id, flag.source, str(flag.row), str(flag.prediction), share(flag.score, 4), share(flag.p_value, 4)]
        for flag in flags.samples
    ]


def _drift(drift: Drift) -> list[str]:
    name = "all" if drift.predicted == NO_CLASS else str(drift.predicted)
    return [
        name,
        drift.samples,
        f"{drift.before:,}",
        f"{drift.after:,}",
        f"{drift.shift:+.4g}",
        f"{drift.p_value:.2g}",
        f"{drift.q_value:.2g}",
    ]
