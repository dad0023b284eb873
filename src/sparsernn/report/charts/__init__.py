"""What a report draws: scales, SVG, and one file per kind of picture."""
