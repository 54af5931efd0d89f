"""Tests of infra.storage."""
