"""A plan on stored rows: the recipe as it was recorded, the receipts that it read, and what is dropped."""

import pytest

from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from pipeline.planning.from_rows import plan_point, plan_rescore
from pipeline.run import run_audit
from tests.conftest import ConfigMaker


def test_rows_are_planned_as_the_run_recorded_them(make_config: ConfigMaker) -> None:
    config = make_config()
    planned = plan_audit(config)
    audit = run_audit(planned)
    again = plan_rescore(make_config(curvature={"damping": {"factor": 0.1}}))
    (first,), (second,) = planned.models, again.models
    assert second.recipe == first.recipe
    assert (second.digest, second.row_key, second.layers, second.sides) == (
        first.digest,
        first.row_key,
        first.layers,
        first.sides,
    )
    assert second.stored is not None and audit.outcome is not None
    assert second.stored.run_id == audit.outcome.run_id
    assert second.row_tasks == first.row_tasks
    ((folder, receipts),) = again.receipts.items()
    (trusted,) = first.trusted
    assert folder == f"digits/gradients/{first.row_key}/{trusted.key}"
    assert list(receipts) == [task.name for task in first.tasks(trusted)]
    assert plan_point(config, again.receipts).receipts == again.receipts

    (fewer,) = plan_rescore(config, {"trusted-0005", "trusted-0003"}).models
    assert fewer.dropped == ("trusted-0003", "trusted-0005")
    with pytest.raises(ConfigError, match=r"1 of 2 ids to drop are of no trusted sample \('nobody'\)"):
        plan_rescore(config, {"trusted-0005", "nobody"})
