"""Planted secrets, searched for in every byte that an audit writes or prints: root, output, temporary files, home."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from infra.storage.storage import Storage
from tests.audits import upload_inputs, with_inputs
from tests.conftest import Raw
from tests.infra.stores import fresh_url
from tests.processes import Printed, mad_in_process
from tests.services import Service, free_port

REPOSITORY = Path(__file__).parents[2]


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "PlantedSecret/Key+0123456789abcdefghijkl",
    "AWS_SESSION_TOKEN": "PlantedSessionToken//////////0123456789abcdefghij==",
    "HF_TOKEN": "hf_PlantedHubToken0123456789",
    "RAY_AUTH_TOKEN": "PlantedRayToken0123456789abcdef",
    "GITHUB_TOKEN": "PlantedUnrelatedToken0123456789",
}


PASSWORD = "PlantedPassword9876"


Mad = Callable[..., Printed]


def spellings(secret: str) -> Iterator[bytes]:
    """A secret as it would be found: as it is, quoted for a URL, in base64 at each of three offsets."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    for lead in range(3):
        yield base64.b64encode(b" " * lead + secret.encode())[4:-4]


def leaks(data: bytes) -> list[str]:
    """The planted secrets that some bytes hold."""
    return [
        name
        for name, secret in {**SECRETS, "password": PASSWORD}.items()
        if any(spelt in data for spelt in spellings(secret))
    ]


@pytest.fixture
def place(on_moto: Service, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The demo's inputs on S3; the environment holds every secret."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    storage = Storage(fresh_url("s3"))
    upload_inputs(digits, storage, "inputs/")
    return storage


@pytest.fixture
def config(place: Storage, raw: Raw, tmp_path: Path) -> Path:
    """A config that names S3 alone."""
    path = tmp_path / "audit.yaml"
    path.write_text(json.dumps({**with_inputs(raw, f"{place.url}/inputs"), "root": f"{place.url}/root"}))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where processes of these tests have their home and their temporary folder."""
    (tmp_path / "home" / "tmp").mkdir(parents=True)
    return tmp_path / "home"


def in_process(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Printed:
    """Runs the command as its script does."""
    command = [sys.executable, "-m", "jobs.main", *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, timeout=300)
    return Printed(ended.returncode, ended.stdout, ended.stderr)


def leakless(home: Path, begin: Callable[[Sequence[str], Path, Mapping[str, str]], Printed]) -> Mad:
    """Runs the command, with more environment variables where they are given, and searches what it prints."""

    def run(*arguments: str | Path, **more: str) -> Printed:
        environment = {
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": str(REPOSITORY),
            **more,
        }
        ended = begin([str(argument) for argument in arguments], home, environment)
        assert b"unexpected" not in ended.err, ended.err.decode()
        assert (leaks(ended.out), leaks(ended.err)) == ([], [])
        return ended

    return run


@pytest.fixture
def mad(home: Path) -> Mad:
    """Runs the command in a forked process."""
    return leakless(home, mad_in_process)


@pytest.fixture
def mad_as_script(home: Path) -> Mad:
    """Runs the command as its script does: its imports see the secrets too."""
    return leakless(home, in_process)


def stored(storage: Storage) -> dict[str, bytes]:
    """Every object below a storage's root, the hidden ones too."""
    return {path: storage.read(path) for path in storage.walk("")}


def left_behind(home: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_what_is_planted_would_be_found() -> None:
    for name, secret in SECRETS.items():
        assert leaks(f"x{secret}y".encode()) == [name]
        assert leaks(b"x" + base64.b64encode(f"Authorization: {secret} and more".encode())) == [name]


def test_no_byte_of_an_audit_holds_a_secret(
    place: Storage, config: Path, home: Path, mad: Mad, mad_as_script: Mad
) -> None:
    """Each command says what it does at its most talkative."""
    root = f"{place.url}/root"
    assert mad("plan", config, "-vv").code == 0
    assert mad_as_script("run", config, "-v", "-v", "--output", "json").code == 0
    for command, output in {"verify": "text", "status": "json", "report": "text", "inspect": "json"}.items():
        assert mad(command, root, "-vv", "--output", output).code == 0
    assert mad("explain", root, "--model", "digits", "--sample", "digit-0000", "-vv").code == 0
    objects = stored(Storage(root))
    assert {"report/index.html", "mad.json", "digits/summary.json"} <= objects.keys()
    assert [path for path in objects if path.endswith("/_run.json")] != []
    assert {path: leaks(data) for path, data in {**objects, **left_behind(home)}.items() if leaks(data)} == {}
    assert list((home / "tmp").iterdir()) == []


def test_a_store_that_fails_is_complained_of_without_secrets(config: Path, home: Path, mad: Mad) -> None:
    """Nothing listens there; the URLs of endpoint and proxy hold a password, which errors like to show."""
    nobody = f"127.0.0.1:{free_port()}"
    once = {"AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL": f"http://user:{PASSWORD}@{nobody}"}
    for more in (
        once,
        {**once, "HTTP_PROXY": f"http://user:{PASSWORD}@{nobody}"},
        {"AWS_ENDPOINT_URL": f"user:{PASSWORD}@{nobody}"},
    ):
        for command, verbosity in (("plan", "-q"), ("run", "-vv")):
            ended = mad(command, config, verbosity, **more)
            assert ended.code == 2
            assert b"mad: " in ended.err
    assert [path for path, data in left_behind(home).items() if leaks(data)] == []


def test_a_root_with_credentials_in_its_url_is_refused_by_every_command(
    place: Storage, config: Path, home: Path, mad: Mad
) -> None:
    url = place.url.replace("s3://", f"s3://AKIAPLANTED:{SECRETS['AWS_SECRET_ACCESS_KEY']}@")
    config.write_text(config.read_text().replace(f"{place.url}/root", f"{url}/root"))
    for command in ("plan", "run"):
        ended = mad(command, config, "-vv")
        assert ended.code == 2
        assert b"this URL carries credentials" in ended.err
    for arguments in (
        ("status", url),
        ("verify", url),
        ("report", url),
        ("inspect", url),
        ("explain", url, "--model", "m", "--sample", "s"),
        ("demo", "--root", url),
    ):
        ended = mad(*arguments, "-vv")
        assert ended.code in (1, 2)
        assert b"this URL carries credentials" in ended.err
    assert list(Storage(f"{place.url}/root").walk("")) == []
    assert [path for path, data in left_behind(home).items() if leaks(data)] == []


def test_a_task_that_fails_leaves_no_secret_in_its_outcome(
    place: Storage, config: Path, raw: Raw, tmp_path: Path, mad: Mad
) -> None:
    """User code raises where a variable holds the environment; only its message and its place are kept."""
    code = "import os\n\n\ndef build():\n    kept = dict(os.environ)\n    raise RuntimeError(len(kept))\n"
    (tmp_path / "net.py").write_text(code)
    broken = json.loads(config.read_text())
    (good,) = broken["models"]
    broken["models"] = [good, {**good, "name": "broken", "architecture": "net.py:build"}]
    config.write_text(json.dumps(broken))
    assert mad("run", config, "-vv").code == 1
    assert {path for path, data in stored(Storage(f"{place.url}/root")).items() if leaks(data)} == set()


@pytest.mark.faults
def test_workers_on_ray_are_sent_no_secret(place: Storage, config: Path, home: Path, mad_as_script: Mad) -> None:
    """Actors inherit their node's environment; Ray's logs and metadata of the job hold none of it."""
    with tempfile.TemporaryDirectory(prefix="mad", dir="/tmp") as folder:  # Ray's sockets need a short path
        ended = mad_as_script("run", config, "--executor", "ray", "-vv", RAY_AUTH_MODE="disabled", RAY_TMPDIR=folder)
        assert ended.code == 0
        written = left_behind(Path(folder))
    assert written
    assert [path for path, data in {**written, **left_behind(home)}.items() if leaks(data)] == []
    assert {path for path, data in stored(Storage(f"{place.url}/root")).items() if leaks(data)} == set()
