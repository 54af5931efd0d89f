"""What rows are keyed by."""

from pydantic import JsonValue

from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import ModelPlan
from tests.conftest import ConfigMaker


def test_rows_are_keyed_by_what_they_depend_on(make_config: ConfigMaker) -> None:
    def planned(**sections: JsonValue) -> ModelPlan:
        (model,) = plan_audit(make_config(**sections)).models
        return model

    first = planned()
    free = planned(curvature={"kind": "identity"}, calibration={"seed": 5}, run={"batch_size": 8, "rows_per_task": 32})
    assert free.row_key == first.row_key
    assert free.recipe.rows_per_task == 32
    others = [
        planned(estimator={"projection": {"seed": 1}}),
        planned(estimator={"rows_dtype": "float32"}),
        planned(data={"preprocess": {"mean": [0.1, 0.1, 0.1]}}),
    ]
    assert len({first.row_key, *(plan.row_key for plan in others)}) == 4
    assert {first.digest} == {plan.digest for plan in others}
