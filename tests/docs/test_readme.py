"""The README is short, and shows what the evidence has."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_its_results_are_those_of_the_evidence() -> None:
    header = r"^\| attack \| AUROC \|.*\n(?:\|.*\n)+"
    tables = [re.findall(header, text, re.MULTILINE) for text in (README, page("evidence/detection.md"))]
    assert tables[0] == tables[1]
    assert len(tables[0][0].splitlines()) == 2 + 5


def test_the_demos_output_is_that_of_the_quickstart() -> None:
    outputs = [
        re.search(r"^run 2026.*?^page:", text, re.MULTILINE | re.DOTALL) for text in (README, page("quickstart.md"))
    ]
    assert outputs[0] is not None
    assert outputs[1] is not None
    assert outputs[0].group() == outputs[1].group()


def page(name: str) -> str:
    """A page's text."""
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
