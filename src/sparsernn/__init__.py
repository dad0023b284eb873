"""Recurrent networks that are sparse and really smaller."""
