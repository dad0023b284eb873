"""Sparse by pruning a model that is trained already."""
