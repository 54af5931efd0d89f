"""Tests of infra.execution."""
