"""Recurrent layers, one file per paper: the equations of a step, and what is special about its window."""
