"""Tests of `madcore.formulas`, a file per module."""
