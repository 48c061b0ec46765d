"""Experiments: one file each, with a function `experiment` that returns the record."""
