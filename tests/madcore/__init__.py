"""Tests of `madcore`, a file per module; shared models are in `models.py` and `zoo.py`, shared checks in `checks.py`."""
