"""Tests of `madcore.sampling`, a file per module."""
