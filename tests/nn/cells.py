"""One of every staged cell, small, with every switch that changes its arithmetic."""

import torch

from sparsernn.nn.cells.elman import ElmanCell
from sparsernn.nn.cells.onlstm import ONLSTMCell
from sparsernn.nn.cells.rhn import RHNCell

H = 6
CELLS = {
    "elman": lambda i: ElmanCell(i, H),
    "elman, relu": lambda i: ElmanCell(i, H, nonlinearity="relu", input_init="kaiming"),
    "elman, linear": lambda i: ElmanCell(i, H, nonlinearity="none", input_bias=False),
    "elman, modrelu": lambda i: ElmanCell(i, H, nonlinearity="modrelu", map="orthogonal"),
    "elman, normal": lambda i: ElmanCell(i, H, nonlinearity="modrelu", map="normal"),
    "rhn": lambda i: RHNCell(i, H, depth=3),
    "rhn, dropped": lambda i: RHNCell(i, H, depth=2, state_dropout=0.3),
    "rhn, free carry": lambda i: RHNCell(i, H, depth=2, coupled=False, state_dropout=0.3),
    "rhn, depth 1": lambda i: RHNCell(i, H, depth=1, transform_bias=-2.0),
    "onlstm": lambda i: ONLSTMCell(i, H, chunk_size=2),
    "onlstm, dropped": lambda i: ONLSTMCell(i, H, chunk_size=3, weight_drop=0.3),
    "onlstm, chunks of one": lambda i: ONLSTMCell(i, H, chunk_size=1, weight_drop=0.3, rescale_drop=True),
}


def make_cell(name, input_size):
    """A cell with reproducible weights."""
    torch.manual_seed(0)
    return CELLS[name](input_size)
