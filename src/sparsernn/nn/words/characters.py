"""A word's vector from its characters, and the highway that mixes it with the word's own vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsernn.core.checks import checked
from sparsernn.core.limits import Size
from sparsernn.nn.dropout import drop_quickly
from sparsernn.nn.glorot import glorot_, glorot_linear


class CharacterCNN(nn.Module):
    """Convolution over a word's characters, ReLU, the largest value of each filter over all places.

    Args:
        characters: C, the number of different characters, the one that fills short words up among them.
        embedding_size: numbers per character.
        filters: F, features of a word.
        width: characters that a filter sees at once; words have at least so many.

    Filling characters count like any other: their vector is learnt and nothing is masked, as in the original.

    Parameters: `embedding` (C, E), `weight` (F, width * E), `bias` (F,), all Glorot uniform.

    Example:
        >>> CharacterCNN(50)(torch.zeros(7, 2, 16, dtype=torch.long)).shape
        torch.Size([7, 2, 100])

    Source: Y. Kim, "Convolutional Neural Networks for Sentence Classification", 2014, arXiv:1408.5882.
    """

    @checked
    def __init__(
        self, characters: Size, embedding_size: Size = 8, filters: Size = 100, width: Size = 5
    ) -> None:
        super().__init__()
        self.embedding = nn.Parameter(
            glorot_(torch.empty(characters, embedding_size), characters, embedding_size)
        )
        seen = width * embedding_size
        # TensorFlow counts a filter's outputs once per place that it sees
        self.weight = nn.Parameter(glorot_(torch.empty(filters, seen), seen, width * filters))
        self.bias = nn.Parameter(glorot_(torch.empty(filters), filters, filters))

    @property
    def width(self) -> int:
        """Characters that a filter sees at once."""
        return self.weight.shape[1] // self.embedding.shape[1]

    def forward(self, characters: Tensor, dropout: float = 0.0) -> Tensor:
        """characters (..., W) int64 -> (..., F), the characters' vectors dropped with probability `dropout`."""
        vectors = functional.embedding(characters, self.embedding)
        vectors = drop_quickly(vectors, dropout, self.training)
        # windows (..., places, width * E); a filter's largest value comes before bias and ReLU, which keep the order
        windows = vectors.unfold(-2, self.width, 1).transpose(-1, -2).flatten(-2)
        largest = functional.linear(windows, self.weight).amax(-2)
        return functional.relu(largest + self.bias)


class Highway(nn.Module):
    """Layers that pass on what they do not change.

        y = g * relu(W x + b) + (1 - g) * x,   g = sigmoid(V x + c), in every layer

    Args:
        size: numbers per vector.
        layers: how many, at least 1.

    Example:
        >>> Highway(6)(torch.zeros(7, 2, 6)).shape
        torch.Size([7, 2, 6])

    Source: R. K. Srivastava, K. Greff and J. Schmidhuber, "Highway Networks", 2015, arXiv:1505.00387.
    """

    @checked
    def __init__(self, size: Size, layers: Size = 2) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(glorot_linear(size, size) for _ in range(layers))
        self.gates = nn.ModuleList(glorot_linear(size, size) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> (..., size)."""
        for transform, gate in zip(self.transforms, self.gates, strict=True):
            candidate, share = (part(x).to(x.dtype) for part in (transform, gate))
            x = torch.lerp(x, candidate.relu(), share.sigmoid())
        return x
