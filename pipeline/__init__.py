"""Composes the numerics and the outside into an audit: config, plan, stages, artifacts."""
