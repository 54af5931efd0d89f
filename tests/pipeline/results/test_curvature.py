"""A curvature rebuilt by Dask from stored rows is the run's own, whatever Dask runs on, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue

from madcore import BlockMoment, Damping, RowLayout
from madcore.curvature.moments import sum_of
from pipeline.artifacts.curvature import read_whitening
from pipeline.errors import RootError
from pipeline.operations.rescore import rescore_audit
from pipeline.planning.from_models import plan_audit
from pipeline.results import curvature as dask_curvature
from pipeline.results.audit import Audit, open_audit
from pipeline.root.logs import stage_logs
from pipeline.run import run_audit
from tests.conftest import ConfigMaker
from tests.stored_roots import MODEL, Split, write_root

TOLERANCE = 1e-6


def sums(moment: BlockMoment) -> list[torch.Tensor]:
    return [sum_of(part, moment.count) for part in moment.parts]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    """Relative to the largest number of each."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert float((one.double() - other.double()).abs().max()) <= TOLERANCE * float(other.abs().max())


def same_maps(audit: Audit, damping: Damping | None = None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the rebuilt whitening and the run's own do to the same rows, layer by layer."""
    rebuilt = audit.curvature("digits", damping)
    (log,) = stage_logs(audit.storage, "digits", "curvature")
    stored = read_whitening(audit.storage, log.attempt_folder(log.receipts()["factor"]), rebuilt.layout)
    rows = torch.randn(64, rebuilt.layout.k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = rebuilt.whitening.compute()
    return [list(rebuilt.layout.blocks(whitening(rows))) for whitening in (ours, stored)]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("curvature", "rows_per_task"),
    [
        pytest.param({"kind": "block_moment"}, 128, marks=pytest.mark.faults),
        ({"kind": "block_moment", "transductive": True}, 16),
        pytest.param({"kind": "fisher", "transductive": True}, 128, marks=pytest.mark.faults),
        ({"kind": "ggn"}, 16),
        pytest.param({"kind": "kfac"}, 16, marks=pytest.mark.faults),
        ({"kind": "ekfac", "transductive": True}, 128),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_the_rebuilt_whitening_is_the_runs_own(
    make_config: ConfigMaker, curvature: dict[str, JsonValue], rows_per_task: int
) -> None:
    audit = run_audit(
        plan_audit(make_config(curvature=curvature, run={"rows_per_task": rows_per_task, "batch_size": 16}))
    )
    assert_close(*same_maps(audit))


def test_another_damping_is_that_of_the_same_moment(make_config: ConfigMaker) -> None:
    audit = run_audit(plan_audit(make_config()))
    own, other = same_maps(audit, Damping("relative_mean", 0.01))
    assert any(
        float((one - two).abs().max()) > 0.1 * float(two.abs().max()) for one, two in zip(own, other, strict=True)
    )
    anew = run_audit(plan_audit(make_config(curvature={"damping": {"factor": 0.01}})))
    logs = [log for log in stage_logs(anew.storage, "digits", "curvature") if "factor" in log.receipts()]
    whitenings = [
        read_whitening(anew.storage, log.attempt_folder(log.receipts()["factor"]), audit.curvature("digits").layout)
        for log in logs
    ]
    rebuilt = audit.curvature("digits", Damping("relative_mean", 0.01)).whitening.compute()
    rows = torch.randn(64, rebuilt.layout.k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaps = [
        float((rebuilt(rows) - whitening(rows)).abs().max() / whitening(rows).abs().max()) for whitening in whitenings
    ]
    assert min(gaps) <= TOLERANCE < max(gaps)


def test_fewer_layers_are_those_of_the_latest_run(make_config: ConfigMaker) -> None:
    whole = run_audit(plan_audit(make_config(curvature={"kind": "ekfac"})))
    names = list(whole.curvature("digits").layout.names)
    fewer = rescore_audit(
        make_config(curvature={"kind": "ekfac"}, estimator={"layers": ["*", f"!{names[0].rpartition('.')[0]}"]})
    )
    rebuilt = fewer.curvature("digits")
    assert list(rebuilt.layout.names) == names[1:]
    assert rebuilt.whitening.compute().layout == rebuilt.layout
    assert fewer.rows("digits").shape[1] == rebuilt.layout.k


def test_a_curvature_that_has_no_moment_is_refused(make_config: ConfigMaker) -> None:
    audit = run_audit(plan_audit(make_config(curvature={"kind": "identity"})))
    with pytest.raises(RootError, match="is identity, which has no moment and whitens nothing"):
        audit.curvature("digits")


LAYOUT = RowLayout(("a", "b", "c"), (40, 25, 60))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, torch.Tensor]:
    """A root of 37 tasks of trusted rows and 11 of audited ones, all used; and their expected sum, (k, k)."""
    url, generator = str(tmp_path_factory.mktemp("synthetic") / "root"), torch.Generator().manual_seed(1)
    trusted, audited = (
        Split(torch.randn(n, LAYOUT.k, generator=generator), tasks) for n, tasks in ((30, 37), (50, 11))
    )
    write_root(url, LAYOUT, trusted, audited, transductive=True)
    audit = open_audit(url)
    rows = torch.cat(
        [torch.from_numpy(audit.rows(MODEL, split).compute()) for split in ("trusted", "audited")]
    ).double()
    return url, rows.T @ rows


def expected(summed_kk: torch.Tensor) -> list[torch.Tensor]:
    return [summed_kk[own, own] for own in LAYOUT.slices]


def test_the_tree_merges_few_sums_at_a_time(synthetic: tuple[str, torch.Tensor]) -> None:
    url, summed = synthetic
    moment = open_audit(url).curvature(MODEL).moment
    fans = [sum(1 for _ in task.dependencies) for task in dict(moment.dask).values()]
    assert 1 < max(fans) <= dask_curvature.MERGED_AT_ONCE
    computed = moment.compute(scheduler="synchronous")
    assert computed.count == 37 * 30 + 11 * 50
    assert_close(sums(computed), expected(summed))


def test_it_runs_on_threads_unless_told_otherwise(synthetic: tuple[str, torch.Tensor]) -> None:
    url, summed = synthetic
    assert_close(sums(open_audit(url).curvature(MODEL).moment.compute()), expected(summed))


def test_it_runs_on_an_active_distributed_client(synthetic: tuple[str, torch.Tensor]) -> None:
    """Of two worker processes, which is what computes once there is one."""
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    url, summed = synthetic
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "host": "127.0.0.1",
        "protocol": "tcp",
    }
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        moment = open_audit(url).curvature(MODEL).moment.compute()
        assert any(client.run(lambda: "pipeline.results.curvature" in sys.modules).values()), (
            "tasks brought the module to workers"
        )
    assert_close(sums(moment), expected(summed))


@pytest.mark.faults
def test_it_runs_on_a_ray_cluster(synthetic: tuple[str, torch.Tensor], ray_cluster: None) -> None:
    pytest.importorskip("pandas", reason="Ray's scheduler of Dask graphs imports it: needs the extra dask")
    from ray.util.dask import ray_dask_get  # noqa: PLC0415

    url, summed = synthetic
    assert_close(sums(open_audit(url).curvature(MODEL).moment.compute(scheduler=ray_dask_get)), expected(summed))


MEBIBYTE = 1 << 20


LIMIT, TASKS = 144 * MEBIBYTE, 48


IN_BOUNDS = """
import resource, sys
from pipeline.results.audit import open_audit
open_audit(sys.argv[1]).curvature("synthetic").moment.compute(num_workers=2)  # all that is imported late is there
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + int(sys.argv[3]), resource.RLIM_INFINITY))
print(open_audit(sys.argv[2]).curvature("synthetic").moment.compute(num_workers=2).count)
"""


@pytest.mark.faults
def test_memory_is_bounded_for_rows_of_ten_times_its_limit(synthetic: tuple[str, torch.Tensor], tmp_path: Path) -> None:
    """In a process whose two threads may take no more than LIMIT above what the same on a small root left it with."""
    layout = RowLayout(tuple("abcdefgh"), (128,) * 8)
    rows = torch.randn(8192, layout.k, generator=torch.Generator().manual_seed(2))
    write_root(str(tmp_path / "root"), layout, Split(rows[:64], 1), Split(rows, TASKS), transductive=True)
    count = 64 + TASKS * 8192
    assert 4 * layout.k * count > 10 * LIMIT
    command = [sys.executable, "-c", IN_BOUNDS, synthetic[0], str(tmp_path / "root"), str(LIMIT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.stdout.split() == [str(count)], ended.stderr
