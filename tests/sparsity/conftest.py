"""A small recurrent language model of torch's own modules, and ways to train it a few steps."""

import pytest
import torch
from torch import nn

from sparsernn.optim.nt_asgd import NTASGD


class Small(nn.Module):
    """Embedding, two LSTM layers and an output layer, tied if asked for."""

    def __init__(self, tied=False, width=8, vocabulary=12, cell=nn.LSTM):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = cell(width, width, num_layers=2)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.norm(self.rnn(self.embedding(x))[0]))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "torch_asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
    "nt_asgd": lambda p: NTASGD(p, lr=0.1, switch_epoch=0),
    "snt_asgd": lambda p: NTASGD(p, lr=0.1, switch_epoch=0, per_weight=True),
}


class Trainer:
    """A model, an optimizer and the data that a plain loop needs; step k always sees the same batch."""

    def __init__(self, optimizer="sgd", seed=0, **model):
        torch.manual_seed(seed)
        self.model = Small(**model)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())

    def gradients(self, step):
        """Backward pass of batch `step`, with clipping as in the loop."""
        g = torch.Generator().manual_seed(1000 + step)
        x, y = torch.randint(0, 12, (2, 5, 3), generator=g)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        return loss.item()

    def step(self, step):
        """One whole optimizer step."""
        loss = self.gradients(step)
        self.optimizer.step()
        return loss


@pytest.fixture
def trainer():
    """The constructor of `Trainer`."""
    return Trainer


@pytest.fixture(params=list(OPTIMIZERS))
def optimizer_name(request):
    """Every optimizer in turn."""
    return request.param
