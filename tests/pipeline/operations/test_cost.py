"""What `mad plan --cost` estimates, compared with what an audit then does."""

from pathlib import Path
from threading import Lock

import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.operations.cost import RUN_REQUESTS, estimate_costs
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import Cost
from pipeline.run import run_audit
from tests.conftest import ConfigMaker, Raw
from tests.end_to_end.zoos import Zoo
from tests.infra.relays import Exchange, relayed
from tests.infra.stores import fresh_url
from tests.services import Service, speak_to

SETTINGS: dict[str, dict[str, JsonValue]] = {
    "block moment": {},
    "identity": {"curvature": {"kind": "identity"}},
    "small tasks": {"run": {"rows_per_task": 24}},
    "ggn": {"curvature": {"kind": "ggn"}},
    "ekfac": {"curvature": {"kind": "ekfac"}},
    "transductive": {"curvature": {"transductive": True}, "run": {"rows_per_task": 24}},
}


def cost_of(config: AuditConfig, name: str = "digits") -> Cost:
    return estimate_costs(plan_audit(config)).costs[name]


@pytest.mark.parametrize(
    "settings",
    [pytest.param(name, marks=pytest.mark.faults if name in ("ggn", "small tasks") else ()) for name in SETTINGS],
)
def test_bytes_that_tasks_store_are_those_estimated(make_config: ConfigMaker, settings: str) -> None:
    audit = run_audit(estimate_costs(plan_audit(make_config(**SETTINGS[settings]))))
    cost = audit.summary("digits").cost
    assert cost is not None and cost.over_expected.bytes_stored is not None
    assert 0.85 < cost.over_expected.bytes_stored < 1.1


class Counted:
    """A plan of a relay's: passes all on, and counts requests and the bytes of what is read."""

    def __init__(self) -> None:
        """Of nothing yet."""
        self.requests, self.bytes_read, self._lock = 0, 0, Lock()

    def __call__(self, exchange: Exchange) -> None:
        """Does as it is asked."""
        answer = exchange.ask_store()
        with self._lock:
            self.requests += 1
            self.bytes_read += len(answer.body) if exchange.command == "GET" else 0
        exchange.answer(answer)


@pytest.mark.parametrize(
    "settings",
    ["block moment", *(pytest.param(long, marks=pytest.mark.faults) for long in ("small tasks", "transductive"))],
)
def test_requests_to_a_store_and_bytes_read_from_it_are_those_estimated(
    on_moto: Service, digits: Path, raw: Raw, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Storage(fresh_url("s3"))
    for name in ("trusted.parquet", "audited.parquet", "digits.safetensors"):
        inputs.upload(name, digits / name)
    asked = Counted()
    with relayed(on_moto.port, asked) as endpoint:
        speak_to(endpoint, on_moto.owner, monkeypatch)
        named = {split: f"{inputs.url}/{split}.parquet" for split in ("trusted", "audited")}
        data = {**raw["data"], **named}  # type: ignore[dict-item]
        model = {
            "name": "digits",
            "architecture": "pipeline.demo.network:digit_cnn",
            "weights": f"{inputs.url}/digits.safetensors",
        }
        config = AuditConfig.parse(
            {**raw, "root": fresh_url("s3"), "models": [model], "data": data, **SETTINGS[settings]}, str(digits)
        )
        expected, requests, read = cost_of(config), asked.requests, asked.bytes_read
        run_audit(plan_audit(config))
    assert 0.9 < (asked.requests - requests) / (expected.requests + RUN_REQUESTS) < 1.1
    assert 0.9 < (asked.bytes_read - read) / expected.bytes_read < 1.1


def test_what_is_stored_already_costs_nothing(tmp_path: Path, digits: Path) -> None:
    zoo = Zoo(tmp_path, digits)
    zoo.model("ant", 0)
    zoo.trusted(200)
    zoo.day(0)
    config = zoo.config(("ant",))
    whole = cost_of(config, "ant")
    assert all(seconds > 0 for seconds in whole.seconds.values())
    run_audit(plan_audit(config))
    again = cost_of(config, "ant")
    assert (sum(again.seconds.values()), again.bytes_stored) == (0, 0)
    assert again.requests < whole.requests
    zoo.day(1)
    grown = cost_of(zoo.config(("ant",)), "ant")
    assert grown.seconds["curvature"] == 0
    assert 0 < grown.bytes_stored < whole.bytes_stored


def test_rows_that_are_stored_are_not_to_be_computed(make_config: ConfigMaker) -> None:
    config = make_config()
    run_audit(plan_audit(config), until="gradients")
    cost = cost_of(config)
    assert cost.seconds["gradients"] == 0
    assert cost.seconds["curvature"] > 0


def test_traces_cost_passes_of_every_draw(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> None:
    table = pq.read_table(digits / "trusted.parquet")
    pq.write_table(table.slice(0, 300), tmp_path / "trusted.parquet")
    pq.write_table(table.slice(300), tmp_path / "sampling.parquet")

    def traced(draws: int) -> Cost:
        estimator = {
            "kind": "loss_trace",
            "sampling": str(tmp_path / "sampling.parquet"),
            "draws": draws,
            "burn_in": 10,
            "thin": 1,
        }
        return cost_of(
            make_config(
                estimator=estimator,
                data={"trusted": str(tmp_path / "trusted.parquet")},
                calibration={"target": {"fpr": 0.05}},
            )
        )

    few, many = traced(20), traced(200)
    assert many.seconds["gradients"] > few.seconds["gradients"] > 0
    assert many.bytes_stored > few.bytes_stored
