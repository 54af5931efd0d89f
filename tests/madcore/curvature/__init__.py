"""Tests of `madcore.curvature`, a file per module."""
