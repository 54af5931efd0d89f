"""The results of a sweep as a table."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from jobs.rendering import mapping, share, table
from pipeline.stages.reporting.evaluation import figures

COLUMNS = ("model", "settings", "calibration", "threshold", "flagged", "explained", "AUROC", "TPR", "FPR")


def sweep_text(rows: Sequence[Mapping[str, JsonValue]]) -> str:
    """One line for each model of each point, failures left out."""
    listed = table(list(COLUMNS), [_cells(row) for row in rows if "failure" not in row])
    return (
        f"{listed}\nexplained: mean coupling of calibration samples with the reference part, which needs no anomalies;"
        " compare it between points with the same score"
    )


def _cells(row: Mapping[str, JsonValue]) -> list[str]:
    calibration, judged, explained = mapping(row["calibration"]), figures(row["evaluation"]), mapping(row["explained"])
    at = mapping(judged.get("at_calibrated"))
    threshold = calibration["threshold"]
    return [
        str(row["model"]),
        ", ".join(f"{name} {_shown(value)}" for name, value in mapping(row["settings"]).items())
        or "those of the audit",
        str(calibration["calibration"]),
        f"{threshold:.4g}" if isinstance(threshold, float) else "-",
        f"{row['flagged']:,} of {row['audited']:,}",
        f"{explained['mean']:.4f}" if explained else "-",
        *(share(value) for value in (judged.get("auroc"), at.get("tpr"), at.get("fpr"))),
    ]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value.values())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
