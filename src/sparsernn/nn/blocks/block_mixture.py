"""A mixture of softmaxes that decodes with an embedding of strips."""

from typing import Any, Literal

from torch import Tensor

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import DropRate, Size
from sparsernn.nn.blocks.block_embedding import BlockEmbedding
from sparsernn.nn.words.mixture import MixtureHead
from sparsernn.structure.units import Slice


class BlockMixtureHead(MixtureHead):
    """A mixture of K softmaxes with the strips of a `BlockEmbedding` for E; rare words read the first features alone.

    Args:
        input_size: H.
        embedding_size: E, which must be the embedding's width.
        tied: the embedding.
        experts, dropout, projection, floor: as in `MixtureHead`.

    Parameters: those of `MixtureHead` without `weight`; `table`, the embedding itself.

    Raises:
        InputError: another width, or a value out of its range.

    Example:
        >>> import torch
        >>> from sparsernn.nn.blocks.block_embedding import BlockEmbedding
        >>> head = BlockMixtureHead(6, 4, BlockEmbedding(10, 4, blocks=2, density=0.75), experts=3)
        >>> head.nll(torch.randn(3, 2, 6), torch.randint(10, (3, 2))).shape
        torch.Size([6])

    Source: Z. Yang, Z. Dai, R. Salakhutdinov and W. W. Cohen, "Breaking the Softmax Bottleneck", 2018,
    arXiv:1711.03953; T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence
    Models", 2018, arXiv:1808.08720.
    """

    @checked
    def __init__(
        self,
        input_size: Size,
        embedding_size: Size,
        tied: BlockEmbedding,
        *,
        experts: Size = 10,
        dropout: DropRate = 0.0,
        projection: Literal["always", "auto", "never"] = "always",
        floor: DropRate = 0.0,
    ) -> None:
        words: Any = tied
        super().__init__(
            tied.vocabulary_size,
            input_size,
            embedding_size,
            words,
            experts=experts,
            dropout=dropout,
            projection=projection,
            floor=floor,
        )

    def inputs(self) -> tuple[Slice, ...]:
        """As in `MixtureHead`; where a single expert decodes y itself, feature k is a column of one strip."""
        direct = self.decodes_directly and self.experts == 1
        return self.table.outputs() if direct else super().inputs()

    def _decode_with(self, tied: BlockEmbedding, words: int, width: int) -> None:
        if tied.embedding_size != width:
            raise InputError(
                f"a head tied to an embedding of width {tied.embedding_size} decodes vectors of that width, "
                f"not of {width}."
            )
        self.table: BlockEmbedding = tied

    def _table(self, target: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        return self.bias[self.table.word], self.table.rows_of(target), self.table.bands()

    def _scores(self, latents: Tensor) -> Tensor:
        return self.table.decode(latents, self.bias)
