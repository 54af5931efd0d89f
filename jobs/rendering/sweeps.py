"""The results of a sweep as a table."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from jobs.rendering.tables import share, table
from pipeline.root.facts import Calibration, Evaluation

COLUMNS = ("model", "settings", "calibration", "threshold", "flagged", "explained", "AUROC", "TPR", "FPR")


def sweep_text(rows: Sequence[Mapping[str, JsonValue]]) -> str:
    """One line for each model of each point, failures left out."""
    listed = table(list(COLUMNS), [_cells(row) for row in rows if "failure" not in row])
    return (
        f"{listed}\nexplained: mean coupling of calibration samples with the reference part, which needs no anomalies;"
        " compare it between points with the same score"
    )


def _cells(row: Mapping[str, JsonValue]) -> list[str]:
    calibration = Calibration.model_validate(row["calibration"])
    main = Evaluation.model_validate(row["evaluation"] or {}).main
    settings, explained = row["settings"], row["explained"]
    assert isinstance(settings, dict)
    threshold, rates = calibration.threshold, main.at_calibrated if main is not None else None
    return [
        str(row["model"]),
        ", ".join(f"{name} {_shown(value)}" for name, value in settings.items()) or "those of the audit",
        str(calibration.calibration),
        f"{threshold:.4g}" if threshold is not None else "-",
        f"{row['flagged']:,} of {row['audited']:,}",
        f"{explained['mean']:.4f}" if isinstance(explained, dict) else "-",
        share(main.auroc if main is not None else None),
        *(share(rate) for rate in ((rates.tpr, rates.fpr) if rates is not None else (None, None))),
    ]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value.values())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
