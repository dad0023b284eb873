"""From words to vectors and back: embeddings, characters, heads, mixtures, softmaxes in levels."""
