"""`mad plan --cost`, and `mad run --cost`."""

from pathlib import Path

from tests.jobs.command import mad, section
from tests.jobs.conftest import Configure


def test_the_commands_estimate_and_say_how_far_off_they_were(configure: Configure, root: Path) -> None:
    config = configure()
    planned = mad("plan", config, "--cost", "--output", "json")
    assert planned.code == 0
    assert not root.exists()
    assert set(section(planned.document, "cost", "models", "digits")) == {
        "worker_hours",
        "seconds",
        "bytes_stored",
        "bytes_read",
        "requests",
    }
    assert "worker-hours" in mad("plan", config, "--cost", "--executor", "ray").out
    ran = mad("run", config, "--cost")
    assert ran.code == 0
    assert "of what was expected" in ran.out
    cost = section(mad("report", root, "--output", "json").document, "models", "digits", "cost")
    assert section(cost, "over_expected")["worker_hours"]
    assert (
        section(cost, "expected")["bytes_stored"]
        == section(planned.document, "cost", "models", "digits")["bytes_stored"]
    )
