"""Arithmetic that knows no model: axes, keys, distributions, where arrays live."""
