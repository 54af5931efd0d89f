"""Tests of `madcore`, a file per module, with shared models in `models.py` and `zoo.py` and checks in `checks.py`."""
