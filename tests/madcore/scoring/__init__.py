"""Tests of `madcore.scoring`, a file per module."""
