"""Audits whose trusted set is screened: triggered samples in it leave both of its parts, are listed, and clean sets lose nobody."""

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
from pipeline.planning.from_models import plan_audit
from pipeline.results.audit import Audit
from pipeline.root.facts import Calibration, ScreeningSummary
from pipeline.run import run_audit
from tests.conftest import ConfigMaker

POISON = 30


Audited = Callable[..., Audit]


@pytest.fixture
def audited(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> Audited:
    """An audit of digits, of whose trusted samples `poison` are triggered ones with the target's label, which then are not audited."""

    def run(poison: int, screen: bool) -> Audit:
        whole, trusted = pq.read_table(digits / "audited.parquet"), pq.read_table(digits / "trusted.parquet")
        triggered = whole.filter(pc.cast(whole.column("anomalous"), pa.bool_()))
        labels = pa.array([0] * poison, trusted.schema.field("label").type)
        columns = [
            labels if name == "label" else triggered.slice(0, poison).column(name) for name in trusted.column_names
        ]
        pq.write_table(
            pa.concat_tables([trusted, pa.table(columns, schema=trusted.schema)]), tmp_path / "poisoned.parquet"
        )
        used = pc.is_in(whole.column("id"), value_set=triggered.slice(0, POISON).column("id").combine_chunks())
        pq.write_table(whole.filter(pc.invert(used)), tmp_path / "others.parquet")
        data: JsonValue = {"trusted": str(tmp_path / "poisoned.parquet"), "audited": str(tmp_path / "others.parquet")}
        return run_audit(plan_audit(make_config(data=data, calibration={"screen": screen} if screen else {})))

    return run


def found(audit: Audit) -> tuple[float, ScreeningSummary, Calibration]:
    """TPR at the calibrated threshold, and the sections `screening` and `calibration`."""
    summary = audit.summary("digits")
    assert summary.evaluation is not None and summary.evaluation.all is not None
    tpr = summary.evaluation.all.at_calibrated.tpr
    assert tpr is not None
    return tpr, summary.screening or ScreeningSummary(), summary.calibration


def test_a_poisoned_trusted_set_regains_its_power(audited: Audited) -> None:
    clean, _, _ = found(audited(0, screen=False))
    poisoned = audited(POISON, screen=False)
    plain, untouched, before = found(poisoned)
    warned = poisoned.summary("digits").warnings
    assert any("second mode, as poisoned samples make one: 0 (" in line for line in warned)
    assert untouched.suspects and untouched.suspects_of_calibration == 0 and untouched.flagged_unscreened is None
    audit = audited(POISON, screen=True)
    screened, screening, after = found(audit)
    suspects = screening.suspects
    assert suspects == untouched.suspects
    poison = pq.read_table(str(Path(audit.storage.url).parent / "poisoned.parquet")).column("id").to_pylist()[-POISON:]
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


def test_a_clean_trusted_set_loses_nobody(audited: Audited) -> None:
    _, screening, _ = found(audited(0, screen=True))
    assert screening.suspects == () and screening.warnings == () and len(screening.classes) == 10
    scores = [
        np.asarray(audited(0, screen=screen).scores("digits").read_all().column("score").to_numpy())
        for screen in (False, True)
    ]
    np.testing.assert_array_equal(*scores)


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
