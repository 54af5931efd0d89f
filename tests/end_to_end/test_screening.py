"""Audits whose trusted set is screened: triggered samples leave both parts and are listed; clean sets lose none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from pipeline.errors import ConfigError
from pipeline.operations.verify import verify
from pipeline.results.audit import Audit
from tests.audits import audited, scores
from tests.conftest import ConfigMaker

POISON = 30


Poisoned = Callable[..., Audit]


@pytest.fixture
def poisoned(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> Poisoned:
    """An audit of digits whose trusted set has triggered samples with the target's label, which are not audited."""

    def run(poison: int, screen: bool) -> Audit:
        whole, trusted = pq.read_table(digits / "audited.parquet"), pq.read_table(digits / "trusted.parquet")
        triggered = whole.filter(pc.cast(whole.column("anomalous"), pa.bool_()))
        labels = pa.array([0] * poison, trusted.schema.field("label").type)
        columns = [
            labels if name == "label" else triggered.slice(0, poison).column(name) for name in trusted.column_names
        ]
        whole_trusted = pa.concat_tables([trusted, pa.table(columns, schema=trusted.schema)])
        pq.write_table(whole_trusted, tmp_path / "poisoned.parquet")
        used = pc.is_in(whole.column("id"), value_set=triggered.slice(0, POISON).column("id").combine_chunks())
        pq.write_table(whole.filter(pc.invert(used)), tmp_path / "others.parquet")
        data: JsonValue = {"trusted": str(tmp_path / "poisoned.parquet"), "audited": str(tmp_path / "others.parquet")}
        return audited(make_config(data=data, calibration={"screen": screen} if screen else {}))

    return run


def found(audit: Audit) -> tuple[float, dict[str, JsonValue], dict[str, JsonValue]]:
    """TPR at the calibrated threshold, and the sections `screening` and `calibration`."""
    summary = audit.summary("digits")
    evaluation, screening, calibration = summary["evaluation"], summary.get("screening") or {}, summary["calibration"]
    assert isinstance(evaluation, dict) and isinstance(screening, dict) and isinstance(calibration, dict)
    everyone = evaluation["all"]
    assert isinstance(everyone, dict) and isinstance(everyone["at_calibrated"], dict)
    return float(str(everyone["at_calibrated"]["tpr"])), screening, calibration


def test_a_poisoned_trusted_set_regains_its_power(poisoned: Poisoned) -> None:
    clean, _, _ = found(poisoned(0, screen=False))
    unscreened = poisoned(POISON, screen=False)
    plain, untouched, before = found(unscreened)
    warned = unscreened.summary("digits")["warnings"]
    assert isinstance(warned, list) and any(
        "second mode, as poisoned samples make one: 0 (" in str(line) for line in warned
    )
    assert untouched["suspects"] and untouched["suspects_of_calibration"] == 0
    assert untouched["flagged_unscreened"] is None
    audit = poisoned(POISON, screen=True)
    screened, screening, after = found(audit)
    suspects = screening["suspects"]
    assert isinstance(suspects, list) and suspects == untouched["suspects"]
    trusted = pq.read_table(Path(audit.storage.url).parent / "poisoned.parquet")
    poison = trusted.column("id").to_pylist()[-POISON:]
    assert len(set(poison) & set(suspects)) >= 0.95 * POISON and len(set(suspects) - set(poison)) <= 5
    assert screened > plain + 0.4 and screened > clean - 0.1
    parts = ("reference", "calibration", "filtered", "unreadable")
    assert sum(int(str(before[part])) for part in parts) == sum(int(str(after[part])) for part in parts) + len(suspects)
    left = int(str(before["calibration"])) - int(str(after["calibration"]))
    assert left == screening["suspects_of_calibration"]
    counts, warnings = audit.summary("digits")["counts"], audit.summary("digits")["warnings"]
    assert isinstance(counts, dict) and int(str(screening["flagged_unscreened"])) < int(str(counts["flagged"]))
    assert isinstance(warnings, list) and any(
        "were screened out, because their predicted class has a second mode" in str(line) for line in warnings
    )
    assert not verify(audit.storage).problems


def test_a_clean_trusted_set_loses_no_sample(poisoned: Poisoned) -> None:
    unscreened = scores(poisoned(0, screen=False))
    screened = poisoned(0, screen=True)
    _, screening, _ = found(screened)
    assert screening["suspects"] == [] and screening["warnings"] == []
    classes = screening["classes"]
    assert isinstance(classes, list) and len(classes) == 10
    np.testing.assert_array_equal(scores(screened), unscreened)


@pytest.mark.parametrize(
    "sections",
    [
        {"task": "causal_lm", "models": [{"name": "chat", "huggingface": "chat"}]},
        {"estimator": {"kind": "loss_trace", "sampling": "s.parquet"}},
    ],
    ids=["texts", "traces"],
)
def test_where_nothing_can_be_screened_it_is_refused(make_config: ConfigMaker, sections: dict[str, JsonValue]) -> None:
    with pytest.raises(
        ConfigError,
        match="calibration: screen looks at the predicted classes of gradients' rows; it needs task: classification",
    ):
        make_config(calibration={"screen": True}, **sections)
