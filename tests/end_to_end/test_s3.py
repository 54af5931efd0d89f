"""An audit on S3: its root, weights and data are there, and nothing of it is on this machine's disk."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from infra import locks
from infra.storage.storage import Storage
from pipeline.config.audit_config import merge
from pipeline.operations.verify import verify
from pipeline.results.audit import Audit, open_audit
from tests.audits import Prepared, upload_inputs, with_inputs
from tests.conftest import ConfigMaker, Raw
from tests.infra.stores import S3_KINDS, fresh_url
from tests.infra.wires import Fault, broken_wire, error_answer
from tests.jobs.command import mad, section, tasks
from tests.services import Service, User, speak_to

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=S3_KINDS)
def service(request: pytest.FixtureRequest) -> Service:
    """An S3 service, which the environment names."""
    found: Service = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def place(service: Service, digits: Path) -> Storage:
    """The demo's inputs in it; beside them goes the root."""
    storage = Storage(fresh_url("s3"))
    upload_inputs(digits, storage, "inputs/")
    return storage


@pytest.fixture
def config(place: Storage, raw: Raw, tmp_path: Path) -> Path:
    """A config file that names S3 alone."""
    folder, path = f"{place.url}/inputs", tmp_path / "audit.yaml"
    whole = merge(with_inputs(raw, folder), {"data": {"audited": [f"{folder}/audited.parq*"]}})
    path.write_text(json.dumps({**whole, "root": f"{place.url}/root"}))
    return path


@pytest.fixture
def on_disk(make_config: ConfigMaker, prepared: Prepared) -> Audit:
    """The same audit on a disk."""
    return prepared(make_config())


def table(audit: Audit) -> pa.Table:
    """The published table without the column that says where its inputs were."""
    return audit.scores("digits").read_all().drop_columns(["source"]).replace_schema_metadata(None)


def test_an_audit_on_s3_is_that_on_a_disk(config: Path, place: Storage, on_disk: Audit) -> None:
    """Equal scores and rows; verified clean; a second run computes nothing; commands that read a root work."""
    root = f"{place.url}/root"
    first = mad("run", str(config), "--output", "json")
    assert (first.code, first.err.count("Traceback")) == (0, 0)
    audit = open_audit(root)
    assert table(audit) == table(on_disk)
    assert (audit.rows("digits").compute() == on_disk.rows("digits").compute()).all()
    assert verify(Storage(root)).problems == []
    second = mad("run", str(config), "--output", "json")
    assert second.code == 0
    assert {stage: run for stage, (run, _) in tasks(second.summary).items()} == dict.fromkeys(tasks(first.summary), 0)
    assert table(open_audit(root)) == table(audit)
    for command in ("verify", "status", "report", "inspect"):
        assert (command, mad(command, root, "--output", "json").code) == (command, 0)
    assert Storage(root).list("report") == ["digits.history.json", "digits.html", "index.html"]


def test_what_only_old_runs_refer_to_is_removed_on_s3(
    config: Path, place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older of two runs with other rows is removed; the root is clean, and the younger config finds all done."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    root, raw = f"{place.url}/root", json.loads(config.read_text())
    first = mad("run", str(config), "--output", "json")
    config.write_text(json.dumps({**raw, "estimator": {"projection": {"rank": 2}}}))
    second = mad("run", str(config), "--output", "json")
    assert (first.code, second.code) == (0, 0)
    before = sum(1 for _ in Storage(root).walk(""))
    dry = mad("gc", root, "--keep", "0s", "--dry-run", "--output", "json").document
    assert sum(1 for _ in Storage(root).walk("")) == before
    listing = mad("gc", root, "--keep", "0s", "--output", "json")
    listed = section(listing.document, "listed")
    assert (listing.code, listing.document["objects"]) == (0, 0)
    assert {**listed, "from": None} == {**section(dry, "listed"), "from": None}
    time.sleep(3)  # times of objects are of whole seconds
    collected = mad("gc", root, "--keep", "0s", "--output", "json")
    assert (collected.code, collected.document["removed"]) == (0, listed["removed"])
    assert collected.document["runs_removed"] == [first.document["run_id"]]
    assert sum(1 for path in Storage(root).walk("") if not path.startswith(".lock/")) <= before - int(
        str(listed["objects"])
    )
    assert verify(Storage(root)).problems == []
    third = mad("run", str(config), "--output", "json")
    assert not any(run for run, _ in tasks(third.summary).values())


def test_credentials_that_expire_during_a_run_lose_nothing(
    service: Service, config: Path, place: Storage, on_disk: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed before is reused when the run is started again with new ones."""
    answer = error_answer("400 Bad Request", "ExpiredToken")
    with broken_wire(service.port, Fault(b"PUT ", after=18, times=1000, answer=answer)) as endpoint:
        speak_to(endpoint, service.owner, monkeypatch)
        ended = mad("run", str(config))
    assert ended.code == 1
    assert "the credentials have expired; renew them (AWS_ACCESS_KEY_ID" in ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    speak_to(service.endpoint, service.owner, monkeypatch)
    again = mad("run", str(config), "--output", "json")
    assert again.code == 0
    ran, reused = tasks(again.summary)["gradients"]
    assert (ran, reused) == (8 - 2, 2)
    assert table(open_audit(f"{place.url}/root")) == table(on_disk)


def test_a_command_leaves_no_connection_behind(config: Path, place: Storage) -> None:
    """An unclosed one would be complained about when the process ends."""
    ended = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-m", "jobs.main", "plan", "-q", str(config)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_bucket_that_is_not_there_is_refused_before_anything_runs(service: Service, config: Path) -> None:
    for command in ("plan", "run"):
        config.write_text(config.read_text().replace("s3://audits/", "s3://not-made-yet/", 1))
        ended = mad(command, str(config))
        assert ended.code == 2
        assert f"there is no bucket 'not-made-yet' at {service.endpoint}; make it first" in ended.complaint


@pytest.mark.parametrize("service", [S3_KINDS[1]], indirect=True)
def test_data_on_another_endpoints_credentials_are_refused_in_one_paragraph(
    service: Service, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak_to(service.endpoint, User(service.owner.key, "wrong"), monkeypatch)
    ended = mad("run", str(config))
    assert ended.code == 2
    assert "does not accept these credentials (SignatureDoesNotMatch)" in ended.complaint


@pytest.mark.parametrize("service", [S3_KINDS[1]], indirect=True)
def test_a_bucket_that_denies_writes_is_refused_and_nothing_written(
    service: Service, config: Path, place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.make_bucket("read-only")
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::read-only", "arn:aws:s3:::read-only/*"],
    }
    inputs = {**statement, "Resource": ["arn:aws:s3:::audits", "arn:aws:s3:::audits/*"]}
    for bucket, rule in (("read-only", statement), ("audits", inputs)):
        service.client().put_bucket_policy(
            Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [rule]})
        )
    config.write_text(config.read_text().replace(f"{place.url}/root", "s3://read-only/root"))
    speak_to(service.endpoint, service.guest, monkeypatch)
    try:
        ended = mad("run", str(config))
    finally:
        service.client().delete_bucket_policy(Bucket="audits")
    assert ended.code == 2
    assert ended.complaint.startswith("s3://read-only/root/.tmp/probe-")
    assert "these credentials are not allowed to do this (it needs s3:PutObject)" in ended.complaint
