"""`mad gc` killed with SIGKILL at moments all over a removal."""

import os
import shutil
import signal
import sys
from pathlib import Path
from threading import current_thread

from infra.storage.storage import Storage
from pipeline.operations.collection.garbage import UNCLAIMED_SECONDS
from pipeline.operations.gc import collect
from tests.conftest import ConfigMaker
from tests.pipeline.operations.two_nights import Nights, clean, computed, files, run, run_id
from tests.processes import FORKED, ended


def test_a_removal_killed_at_any_moment_leaves_a_whole_root_and_the_next_goes_on(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    nights = Nights(make_config)
    keep, now = nights.garbage_after(
        2 * UNCLAIMED_SECONDS
    )  # a killed one leaves attempts that no receipt names any more
    collect(nights.storage, keep, now=now)
    done = shutil.copytree(nights.storage.url, tmp_path / "done")
    moments = _moments(done, keep, now, tmp_path / "moments", kill_at=None)
    assert moments > 40
    config = nights.new
    for number, moment in enumerate(range(0, moments, max(1, moments // 6))):
        root = shutil.copytree(nights.storage.url, tmp_path / f"killed-{number}")
        _moments(root, keep, now, tmp_path / "moments", kill_at=moment)
        storage = Storage(str(root))
        assert clean(storage), moment
        collect(storage, keep, now=now)
        assert set(files(root)) == set(files(done)), moment
        if number % 3 == 1:
            assert not any(computed(run(config.model_copy(update={"root": str(root)}))).values())
            assert clean(storage)


def test_a_call_killed_while_it_lists_removes_nothing_and_the_next_ones_do(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    nights = Nights(make_config)
    keep, now = nights.garbage_after()
    before = files(nights.storage.url)
    whole = shutil.copytree(nights.storage.url, tmp_path / "whole")
    moments = _moments(whole, keep, now, tmp_path / "moments", kill_at=None)
    assert moments > 3
    for moment in range(0, moments, 2):
        root = shutil.copytree(nights.storage.url, tmp_path / f"killed-{moment}")
        _moments(root, keep, now, tmp_path / "moments", kill_at=moment)
        assert files(root) == before
        for _ in range(2):
            collect(Storage(str(root)), keep, now=now)
        assert clean(Storage(str(root)))
        assert Storage(str(root)).list("runs") == [run_id(nights.second)]


def _moments(root: Path, keep: float, now: float, notes: Path, kill_at: int | None) -> int:
    """Collects in a process of its own, which kills itself at a moment if told to; returns the number of moments."""
    process = FORKED.Process(target=_collect, args=(str(root), keep, now, notes, kill_at))
    process.start()
    assert ended(process) == (0 if kill_at is None else -signal.SIGKILL)
    return int(notes.read_text())


def _collect(root: str, keep: float, now: float, notes: Path, kill_at: int | None) -> None:
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if (
            event in ("os.remove", "os.rmdir", "os.link")
            and current_thread().name != "lock"
            and str(arguments[0]).startswith(root)
        ):
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(watch)
    collect(Storage(root), keep, now=now)
    notes.write_text(str(seen))
