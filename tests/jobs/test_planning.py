"""What is shown while a plan is made."""

import time

import pytest

from infra.events import Planning, StageEnded
from jobs import planning
from jobs.console import Common
from jobs.planning import PlanningDisplay


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instant of 10 ms, and as long between two lines."""
    monkeypatch.setattr(planning, "INSTANT", 0.01)
    monkeypatch.setattr(planning, "SECONDS_BETWEEN", 0.01)


@pytest.mark.usefixtures("impatient")
def test_what_takes_longer_than_an_instant_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with PlanningDisplay(Common()) as display:
        for doing in ("loading the model", "checking 54 layers against autograd"):
            display(Planning("r50", 1, 2, doing))
            display(StageEnded("none of these", 1.0))
            time.sleep(0.2)
    assert capsys.readouterr() == (
        "",
        "planning: model r50 (1 of 2): loading the model\n"
        "planning: model r50 (1 of 2): checking 54 layers against autograd\n",
    )


@pytest.mark.usefixtures("impatient")
def test_quiet_planning_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with PlanningDisplay(Common(quiet=True)) as display:
        display(Planning("r50", 1, 1, "loading the model"))
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_a_plan_that_is_made_in_an_instant_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with PlanningDisplay(Common()) as display:
        display(Planning("r50", 1, 1, "loading the model"))
    assert capsys.readouterr() == ("", "")
