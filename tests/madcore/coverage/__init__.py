"""Tests of `madcore.coverage`, a file per module."""
