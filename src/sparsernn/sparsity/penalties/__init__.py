"""Penalties on weights and on groups of them, each with its threshold."""
