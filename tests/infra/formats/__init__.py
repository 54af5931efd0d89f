"""Tests of infra.formats."""
