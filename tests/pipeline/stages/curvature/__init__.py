"""Tests of `pipeline.stages.curvature`."""
