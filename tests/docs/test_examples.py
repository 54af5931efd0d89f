"""The scripts that pages show find what the pages say; a script that fails ends the build."""

import re
from pathlib import Path

import pytest

from docs.generate import examples


def test_the_digits_are_audited() -> None:
    printed = examples.printed_by("digits")
    assert "verdict: unusual inputs" in printed
    rates = re.search(r"flagged \d+ of 492; TPR (\S+), FPR (\S+)", printed)
    assert rates is not None
    assert float(rates.group(1)) > 0.9
    assert float(rates.group(2)) < 0.03


def test_the_numerics_find_the_patch() -> None:
    shares = re.findall(r"(\d+)%", examples.printed_by("numerics"))
    assert int(shares[0]) > 90
    assert int(shares[1]) < 10


def test_the_grid_prefers_whitening() -> None:
    aurocs = [float(found) for found in re.findall(r"AUROC (\S+),", examples.printed_by("rescoring"))]
    assert len(aurocs) == 4
    assert aurocs[1] > 0.99
    assert aurocs[1] > aurocs[3] > aurocs[2]


def test_a_script_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("print('so far'); raise SystemExit('out of digits')")
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match=r"broken.py failed \(1\):\nso far\nout of digits"):
        examples.run_example("broken")
