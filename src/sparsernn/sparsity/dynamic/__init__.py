"""Dynamic sparse training: `engine` is the sparsifier, `mask_update` one update in the order it happens."""
