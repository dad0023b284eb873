"""Texts become numbers, piece by piece and in several processes: what they need, without torch."""
