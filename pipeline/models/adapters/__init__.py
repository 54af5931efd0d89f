"""Adapters of PEFT: a folder of low-rank matrices that are added to a base model."""
