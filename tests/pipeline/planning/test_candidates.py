"""Models that a root knows: planned without being loaded as long as nothing that planning depends on has changed."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue
from safetensors.torch import load_file, save_file

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig, merge
from pipeline.errors import CannotFit, ConfigError
from pipeline.operations.repair import repair
from pipeline.operations.verify import verify
from pipeline.planning.from_models import plan_audit
from pipeline.planning.plan import ModelPlan
from pipeline.results.audit import Audit
from pipeline.root.logs import PROBE, stage_logs
from pipeline.run import run_audit
from tests.audits import demo_config, gradient_tasks
from tests.pipeline.operations.two_nights import collected

ARCHITECTURE = """
import scaling
from pathlib import Path
from pipeline.demo.network import digit_cnn

def net():
    with Path("{log}").open("a") as log:
        log.write("built ")
    {also}
    return digit_cnn()
"""


@dataclass(frozen=True)
class Home:
    """A folder with a model whose architecture notes each time that it is built, its samples, and a root."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def architecture(self, also: str = "pass") -> None:
        self.write("net.py", ARCHITECTURE.format(log=self.folder / "log", also=also))

    def config(self, **sections: JsonValue) -> AuditConfig:
        model: JsonValue = {"name": "net", "architecture": "net.py:net", "weights": "w.safetensors"}
        small = {**demo_config(self.folder / "root"), "models": [model], "calibration": {"target": {"fpr": 0.05}}}
        return AuditConfig.parse(merge(small, sections), str(self.folder))

    @property
    def built(self) -> int:
        """How often the model was built."""
        log = self.folder / "log"
        return len(log.read_text().split()) if log.exists() else 0

    def planned(self, **sections: JsonValue) -> tuple[ModelPlan, int]:
        """The model's plan, and how often planning built the model."""
        before = self.built
        (plan,) = plan_audit(self.config(**sections)).models
        return plan, self.built - before

    def audited(self, **sections: JsonValue) -> Audit:
        return run_audit(plan_audit(self.config(**sections)))

    @property
    def storage(self) -> Storage:
        return Storage(str(self.folder / "root"))

    def probes(self) -> int:
        """How many probes the root holds."""
        return sum(len(log.manifests()) for log in stage_logs(self.storage, "net", PROBE))


@pytest.fixture
def home(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    for name, rows in (("trusted.parquet", 250), ("audited.parquet", 60)):
        pq.write_table(pq.read_table(digits / name).slice(0, rows), tmp_path / name)
    shutil.copy(digits / "digits.safetensors", tmp_path / "w.safetensors")
    made = Home(tmp_path)
    made.architecture()
    made.write("scaling.py", "FACTOR = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield made
    for name in ("scaling", "optional"):
        sys.modules.pop(name, None)


@pytest.fixture
def known(home: Home) -> Home:
    """The same, once it has been audited."""
    home.audited()
    return home


def test_a_known_model_is_planned_as_when_it_was_loaded_and_is_not_loaded(home: Home) -> None:
    loaded, built = home.planned()
    assert (built, home.storage.list("")) == (1, [])
    home.audited()
    again, built = home.planned()
    assert built == 0
    assert (again.recipe, again.row_key, again.digest, again.memory) == (
        loaded.recipe,
        loaded.row_key,
        loaded.digest,
        loaded.memory,
    )
    assert again.source == loaded.source


def test_what_planning_does_not_depend_on_leaves_a_model_known(known: Home) -> None:
    _, built = known.planned(curvature={"damping": {"factor": 0.1}}, calibration={"seed": 3}, run={"batch_size": 16})
    assert built == 0


@pytest.mark.parametrize(
    "sections",
    [{"estimator": {"projection": {"rank": 2}}}, {"data": {"preprocess": {"mean": [0.1] * 3, "std": [0.5] * 3}}}],
)
def test_other_rows_or_pictures_are_probed(known: Home, sections: dict[str, JsonValue]) -> None:
    assert known.planned(**sections)[1] == 1


def test_another_trusted_set_is_probed(known: Home) -> None:
    path = known.folder / "trusted.parquet"
    pq.write_table(pq.read_table(path).slice(0, 200), path)
    assert known.planned()[1] == 1


def test_weights_touched_are_read_again_and_are_the_same_model(known: Home) -> None:
    before, _ = known.planned()
    os.utime(known.folder / "w.safetensors", (1, 1))
    plan, built = known.planned()
    assert (plan.digest, plan.row_key, built) == (before.digest, before.row_key, 1)
    assert gradient_tasks(known.audited(), "net") == 0
    assert known.planned()[1] == 0


def test_weights_of_the_same_size_and_time_are_another_model(known: Home) -> None:
    path, before = known.folder / "w.safetensors", known.planned()[0]
    status, weights = path.stat(), load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.ndim > 1)
    save_file({**weights, name: weights[name] * 1.01}, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    plan, built = known.planned()
    assert built == 1 and plan.digest != before.digest


def test_a_changed_architecture_is_another_model(known: Home) -> None:
    before, _ = known.planned()
    known.architecture(also="1 + 1")
    plan, built = known.planned()
    assert built == 1 and plan.digest != before.digest


def test_changed_code_that_an_architecture_imports_is_found_once(known: Home) -> None:
    before, _ = known.planned()
    known.write("scaling.py", "FACTOR = 2  # twice\n")
    sys.modules.pop("scaling")
    plan, built = known.planned()
    assert built == 1 and plan.digest != before.digest
    known.audited()
    assert (known.planned()[1], known.probes()) == (0, 2)


def test_a_model_that_changes_while_it_is_read_is_refused(home: Home) -> None:
    home.architecture(also=f"__import__('os').utime('{home.folder / 'w.safetensors'}')")
    with pytest.raises(ConfigError, match=r"model net: architecture net.py:net: its files changed while they were"):
        plan_audit(home.config())


def test_an_audit_that_is_refused_writes_nothing(home: Home) -> None:
    plan = plan_audit(home.config(run={"memory_per_worker": "600MiB"}))
    with pytest.raises(CannotFit):
        run_audit(plan)
    assert home.storage.list("") == []


def test_a_damaged_probe_is_named_and_repaired(known: Home) -> None:
    (path,) = (known.folder / "root/net/probe").glob("*/probe/*/probe.json")
    path.write_bytes(path.read_bytes().replace(b'"classes": 10', b'"classes": 11'))
    assert any("probe.json" in problem for problem in verify(known.storage).problems)
    with pytest.raises(ConfigError, match=r"probe.json: its contents changed .* --repair"):
        plan_audit(known.config())
    repair(known.storage, ["net"])
    assert known.planned()[1] == 1
    known.audited()
    assert not verify(known.storage).problems


def test_the_probe_of_a_kept_run_stays_and_earlier_ones_go(known: Home) -> None:
    os.utime(known.folder / "w.safetensors", (1, 1))
    known.audited()
    assert known.probes() == 2
    collected(known.storage, 0)
    assert (known.probes(), known.planned()[1]) == (1, 0)
    assert not verify(known.storage).problems


def test_a_probe_that_was_committed_and_not_published_is_found_by_the_next_run(known: Home) -> None:
    (manifest,) = (known.folder / "root/net/probe").glob("*/manifests/*")
    manifest.unlink()
    assert known.planned()[1] == 1
    known.audited()
    assert manifest.exists() and known.planned()[1] == 0


def test_a_model_that_failed_is_loaded_again_so_that_what_was_overlooked_is_found(known: Home) -> None:
    """A module that was not there when the model was probed, and that its code can do without."""
    known.write("scaling.py", "try:\n    import optional\nexcept ImportError:\n    optional = None\n")
    sys.modules.pop("scaling")
    known.audited()
    known.write("optional.py", "FACTOR = 3\n")
    sys.modules.pop("scaling")
    path = known.folder / "audited.parquet"
    pq.write_table(pq.read_table(path).slice(0, 40), path)
    failed = known.audited().outcome
    assert failed is not None and "changed since the plan was made" in failed.failed_tasks["net"][0]
    plan, built = known.planned()
    assert built == 1
    outcome = known.audited().outcome
    assert outcome is not None and outcome.clean and known.planned()[0].digest == plan.digest


def test_a_probe_that_is_collected_between_plan_and_run_is_not_named(home: Home) -> None:
    first: dict[str, JsonValue] = {"estimator": {"projection": {"rank": 2}}}
    home.audited(**first)
    home.audited()
    plan = plan_audit(home.config(**first))
    assert plan.models[0].known
    collected(home.storage, 0)
    audit = run_audit(plan)
    assert PROBE not in audit.summary("net").manifests
    assert not verify(home.storage).problems
    assert home.planned(**first)[1] == 1


def test_an_unknown_executor_is_refused(home: Home) -> None:
    with pytest.raises(ConfigError, match="executor 'cloud' is not available"):
        plan_audit(home.config(), executor="cloud")
