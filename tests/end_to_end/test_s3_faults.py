"""Audits on an S3 store that fails often: they complete, with equal results and few repeated requests."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.storage.storage import Storage
from pipeline.operations.verify import verify
from tests.audits import only_table, upload_inputs, with_inputs
from tests.conftest import Raw
from tests.infra.relays import FAULTS, Mix, relayed
from tests.infra.stores import MOTO, REAL, fresh_url
from tests.jobs.command import mad
from tests.services import Service, speak_to

INPUTS = ("trusted.parquet", "audited.parquet", "digits.safetensors")


QUICK = tuple(kind for kind in FAULTS if kind != "stall")


MOST_REQUESTS = {0.05: 1.25, 0.3: 2.0}  # over those of an undisturbed run; 1.05 and 1.43 are expected


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Service:
    """An S3 service, which the environment names."""
    found: Service = request.getfixturevalue(f"on_{request.param}")
    return found


@dataclass(frozen=True)
class Audits:
    """Audits of the same inputs, each in a fresh root, through a relay to the same service."""

    service: Service
    inputs: str
    raw: Raw
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def run(self, mix: Mix) -> str:
        """Runs one with these faults, which must not show, and returns its root."""
        root = fresh_url("s3")
        with relayed(self.service.port, mix) as endpoint:
            speak_to(endpoint, self.service.owner, self.monkeypatch)
            ended = mad("run", str(self.config(root)))
        assert (ended.code, ended.err.count("Traceback")) == (0, 0), ended.err
        speak_to(self.service.endpoint, self.service.owner, self.monkeypatch)
        return root

    def config(self, root: str) -> Path:
        """A config file that names S3 alone."""
        path = self.folder / "audit.yaml"
        path.write_text(json.dumps({**with_inputs(self.raw, self.inputs), "root": root}))
        return path


@pytest.fixture
def audits(service: Service, digits: Path, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audits:
    """Of the demo's inputs, which are there already."""
    storage = Storage(fresh_url("s3"))
    upload_inputs(digits, storage)
    return Audits(service, storage.url, raw, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("service", "share", "kinds"),
    [
        pytest.param(*MOTO.values, 0.3, QUICK, id="moto-30%-quick", marks=MOTO.marks),
        pytest.param("moto", 0.05, tuple(FAULTS), id="moto-5%", marks=pytest.mark.faults),
        pytest.param("moto", 0.3, tuple(FAULTS), id="moto-30%", marks=pytest.mark.faults),
        pytest.param(*REAL.values, 0.05, tuple(FAULTS), id="s3-5%", marks=[*REAL.marks, pytest.mark.faults]),
        pytest.param(*REAL.values, 0.3, tuple(FAULTS), id="s3-30%", marks=REAL.marks),
    ],
    indirect=["service"],
)
def test_an_audit_completes_whatever_share_of_requests_fails(
    audits: Audits, share: float, kinds: tuple[str, ...]
) -> None:
    """With exit code 0, the same bytes, a clean root, and requests bounded by a factor."""
    undisturbed, disturbed = Mix(0.0), Mix(share, kinds, seed=1)
    roots = audits.run(undisturbed), audits.run(disturbed)
    expected, found = (Storage(root) for root in roots)
    assert only_table(found) == only_table(expected)
    assert verify(found).problems == []
    assert set(disturbed.faults) == set(kinds)
    least, most = (
        undisturbed.requests.total() + disturbed.faults.total() // 2,
        MOST_REQUESTS[share] * undisturbed.requests.total(),
    )
    assert least < disturbed.requests.total() < most
