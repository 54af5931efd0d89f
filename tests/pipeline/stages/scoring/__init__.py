"""Tests of `pipeline.stages.scoring`."""
