"""Layers, embeddings and heads made of small dense parts; `geometry` says where the parts lie."""
