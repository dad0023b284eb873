"""An LSTM from either end of padded sequences, one fused kernel each; nothing is packed."""

import torch
from torch import Tensor, nn

from sparsernn.core.autograd_context import Context
from sparsernn.core.checks import checked
from sparsernn.core.limits import Size
from sparsernn.nn.drive.recurrent import turned, within
from sparsernn.nn.dropout import drop_quickly
from sparsernn.nn.glorot import glorot_lstm


class _Turn(torch.autograd.Function):
    """Rows of x (T, B, F) by an order that is its own inverse: the gradient takes the same way back."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.flatten(0, 1).index_select(0, order).view_as(x)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return gradient.flatten(0, 1).index_select(0, order).view_as(gradient), None


def turn(x: Tensor, order: Tensor) -> Tensor:
    """Every sequence of x (T, B, F) from its end, what is beyond the end left in place; `order` from `turning`.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
        >>> turn(x, turning(torch.tensor([2]), 3))[:, 0, 0].tolist()
        [2.0, 1.0, 3.0]
    """
    turned_x: Tensor = _Turn.apply(x, order)  # type: ignore[no-untyped-call]
    return turned_x


def turning(lengths: Tensor, steps: int) -> Tensor:
    """Where each row of a padded batch stands when every sequence is read from its end, int64 (T * B,).

    Args:
        lengths: valid steps of each sequence, (B,), 0 to T.
        steps: T.

    Example:
        >>> turning(torch.tensor([2, 1]), 2).tolist()   # rows are numbered t * B + b
        [2, 1, 0, 3]
    """
    batch = len(lengths)
    order = turned(within(lengths, steps, batch), steps).squeeze(-1)
    return (order * batch + torch.arange(batch)).flatten()


class BothEnds(nn.Module):
    """Two LSTMs over the same sequences, one from each end, initialised by `glorot_lstm`.

    Padding is at the end of a sequence, where the one that reads forward comes last and the other one too, for its
    input is turned within the sequence. So what is beyond a sequence's end cannot reach what is inside, and a padded
    batch runs on the same kernel as one of equal lengths. Outputs beyond the end have no meaning.

    Args:
        input_size: I.
        ahead: units of the LSTM that reads from the beginning.
        back: units of the one that reads from the end.

    Example:
        >>> layer = BothEnds(3, 5, 4)
        >>> layer(torch.zeros(7, 2, 3), turning(torch.tensor([7, 2]), 7)).shape
        torch.Size([7, 2, 9])
    """

    @checked
    def __init__(self, input_size: Size, ahead: Size, back: Size) -> None:
        super().__init__()
        self.ahead, self.back = glorot_lstm(input_size, ahead), glorot_lstm(input_size, back)

    @property
    def hidden_size(self) -> int:
        """The widths of both directions together."""
        return self.ahead.hidden_size + self.back.hidden_size

    def forward(self, x: Tensor, order: Tensor, dropout: float = 0.0) -> Tensor:
        """Read a batch.

        Args:
            x: (T, B, I).
            order: from `turning`.
            dropout: probability in [0, 1) of dropping an input, another sample for each direction.

        Returns:
            (T, B, ahead + back).
        """
        forth, _ = self.ahead(drop_quickly(x, dropout, self.training))
        back, _ = self.back(turn(drop_quickly(x, dropout, self.training), order))
        return torch.cat([forth, turn(back, order)], -1)
