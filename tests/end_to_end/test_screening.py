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
from pipeline.root.facts import Calibration, ScreeningSummary
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


def found(audit: Audit) -> tuple[float, ScreeningSummary, Calibration]:
    """TPR at the calibrated threshold, and the sections `screening` and `calibration`."""
    summary = audit.summary("digits")
    assert summary.evaluation is not None and summary.evaluation.all is not None
    tpr = summary.evaluation.all.at_calibrated.tpr
    assert tpr is not None
    return tpr, summary.screening or ScreeningSummary(), summary.calibration


def test_a_poisoned_trusted_set_regains_its_power(poisoned: Poisoned) -> None:
    clean, _, _ = found(poisoned(0, screen=False))
    unscreened = poisoned(POISON, screen=False)
    plain, untouched, before = found(unscreened)
    warned = unscreened.summary("digits").warnings
    assert any("second mode, as poisoned samples make one: 0 (" in line for line in warned)
    assert untouched.suspects and untouched.suspects_of_calibration == 0 and untouched.flagged_unscreened is None
    audit = poisoned(POISON, screen=True)
    screened, screening, after = found(audit)
    suspects = screening.suspects
    assert suspects == untouched.suspects
    trusted = pq.read_table(Path(audit.storage.url).parent / "poisoned.parquet")
    poison = trusted.column("id").to_pylist()[-POISON:]
    assert len(set(poison) & set(suspects)) >= 0.95 * POISON and len(set(suspects) - set(poison)) <= 5
    assert screened > plain + 0.4 and screened > clean - 0.1
    totals = [one.reference + one.calibration + one.filtered + one.unreadable for one in (before, after)]
    assert totals[0] == totals[1] + len(suspects)
    assert before.calibration == after.calibration + screening.suspects_of_calibration
    summary = audit.summary("digits")
    assert screening.flagged_unscreened is not None and screening.flagged_unscreened < summary.counts.flagged
    screened_out = "were screened out, because their predicted class has a second mode"
    assert any(screened_out in line for line in summary.warnings)
    assert not verify(audit.storage).problems


def test_a_clean_trusted_set_loses_no_sample(poisoned: Poisoned) -> None:
    unscreened = scores(poisoned(0, screen=False))
    screened = poisoned(0, screen=True)
    _, screening, _ = found(screened)
    assert screening.suspects == () and screening.warnings == () and len(screening.classes) == 10
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
