"""Tests of `madcore.extraction`, a file per module."""
