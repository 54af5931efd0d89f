"""Tests of what can be done with a root other than running an audit in it."""
