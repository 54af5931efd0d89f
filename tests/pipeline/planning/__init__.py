"""Tests of what is known before a run."""
