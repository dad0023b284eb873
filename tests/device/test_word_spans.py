"""What on the CPU is done for some words only is done for all on a device, with the same result and no wait."""

import pytest
import torch
from pretended_cuda import pretended

from sparsernn.core.devices import moved
from sparsernn.nn.blocks import strips
from sparsernn.nn.blocks.block_embedding import BlockEmbedding
from sparsernn.nn.blocks.block_mixture import BlockMixtureHead
from sparsernn.nn.words.split_softmax import SplitHead

DEVICE = torch.device("cuda", 0)


def lookup_and_nll(rows, x, bias, *parts):
    return strips.lookup(rows, parts).square().sum() + strips.nll(x, bias, rows, parts).square().sum()


@pytest.mark.parametrize("empty", [False, True])
def test_strips(empty):
    random = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 1, 1] if empty else [0, 9, 5, 6, 9])
    given = [
        torch.randn(n, generator=random, dtype=torch.double) for n in ((len(rows), 5), (10,), (10, 2), (4, 3))
    ]
    results = []
    for there in (False, True):
        with pretended() as device:
            to = DEVICE if there else torch.device("cpu")
            leaves = [moved(t.clone(), to).requires_grad_() for t in given]
            numbers = moved(rows, to)
            device.forget()
            value = lookup_and_nll(numbers, *leaves)
            value.backward()
            assert not [place for _, place in device.waits if place]
            results.append([value.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)])
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


HEADS = {
    "mixture": (0, lambda: BlockMixtureHead(4, 4, BlockEmbedding(10, 4, blocks=2), experts=2)),
    "split": (1, lambda: SplitHead(10, 4, splits=[3, 7])),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name):
    waits, make = HEADS[name]
    torch.manual_seed(0)
    head = make().double()
    y, target = torch.randn(6, 4, dtype=torch.double), torch.tensor([0, 9, 2, 4, 3, 0])
    exact = head.nll(y, target)
    exact.sum().backward()
    gradients = [p.grad.clone() for p in head.parameters() if p.grad is not None]
    with pretended() as device:
        head.zero_grad()
        head.to(DEVICE)
        there = moved((y, target), DEVICE)
        device.forget()
        nats = head.nll(*there)
        nats.sum().backward()
        assert sum(n for (_, place), n in device.waits.items() if place) == waits
        torch.testing.assert_close(nats.cpu(), exact.detach(), rtol=1e-12, atol=1e-12)
        found = [p.grad.cpu() for p in head.parameters() if p.grad is not None]
    for ours, wanted in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
