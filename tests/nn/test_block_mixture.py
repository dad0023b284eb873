"""The mixture of softmaxes over a block embedding, against its dense twin."""

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.nn import BlockEmbedding, MixtureHead
from sparsernn.nn.blocks.block_mixture import BlockMixtureHead
from sparsernn.nn.words import mixture

WORDS, WIDTH, HIDDEN = 23, 6, 5


def pair(experts, **settings):
    """A head over strips whose words stand in no order, and the head with the same table as one matrix."""
    torch.manual_seed(experts)
    table = BlockEmbedding(WORDS, WIDTH, blocks=3, density=0.6, counts=torch.randperm(WORDS)).double()
    hidden = experts * WIDTH if settings.get("projection") == "never" else HIDDEN
    head = BlockMixtureHead(hidden, WIDTH, table, experts=experts, **settings).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    twin = MixtureHead(WORDS, hidden, WIDTH, experts=experts, **settings).double()
    own = {name: value for name, value in head.named_parameters() if not name.startswith("table.")}
    twin.load_state_dict({**own, "weight": table.dense()})
    return head, twin, torch.randn(4, 2, hidden).double()


@pytest.mark.parametrize("piece", [1, 100, 1 << 24])
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"projection": "never"}, {"floor": 1e-3}])
def test_it_is_the_dense_mixture_with_zeros(monkeypatch, piece, experts, settings):
    monkeypatch.setattr(mixture, "PIECE", piece)
    head, twin, y = pair(experts, **settings)
    target = torch.randint(WORDS, (4, 2))
    torch.testing.assert_close(head.log_prob(y), twin.log_prob(y))
    for scale in (torch.full((8,), 0.125).double(), torch.arange(8).double()):
        inputs = [y.clone().requires_grad_() for _ in range(2)]
        losses = [h.nll(x, target) for h, x in zip((head, twin), inputs, strict=True)]
        torch.testing.assert_close(*losses)
        head.zero_grad()
        twin.zero_grad()
        for loss in losses:
            (loss * scale).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        for name, parameter in twin.named_parameters():
            if name != "weight":
                torch.testing.assert_close(dict(head.named_parameters())[name].grad, parameter.grad)
        gradient = twin.weight.grad.index_select(0, head.table.word)  # in the order of the rows
        start = 0
        for strip in head.table.strips:
            stop = start + strip.shape[1]
            torch.testing.assert_close(strip.grad, gradient[WORDS - len(strip) :, start:stop])
            start = stop
    with torch.no_grad():
        torch.testing.assert_close(head.nll(y, target), twin.nll(y, target))


def test_a_language_model_ties_it_and_counts_every_weight_once():
    table = {"name": "block", "blocks": 3, "density": 0.5}
    head = {"name": "mixture", "experts": 4}
    model = LanguageModel(WORDS, WIDTH, [8, HIDDEN], head=head, tied=True, embedding=table)
    assert isinstance(model.head, BlockMixtureHead)
    assert model.head.table is model.embedding
    strips = sum(strip.numel() for strip in model.embedding.strips)
    rest = 4 * HIDDEN + 4 * WIDTH * HIDDEN + 4 * WIDTH + WORDS
    layers = sum(p.numel() for p in model.layers.parameters())
    assert sum(p.numel() for p in model.parameters()) == strips + rest + layers
    # a unit of the last layer is read by the prior and the projection alone, for they come before the strips
    tensors = {piece.name for piece in model.units()[-1].slices if piece.module is model.head}
    assert tensors == {"prior", "latent"}


def test_one_expert_without_projection_reads_columns_of_strips():
    head, _, _ = pair(1, projection="never")
    assert head.inputs() == head.table.outputs()
    with pytest.raises(InputError, match="no unit below it can be removed"):
        pair(3, projection="never")[0].inputs()


def test_another_width_is_refused():
    with pytest.raises(InputError, match="of width 6 decodes vectors of that width, not of 7"):
        BlockMixtureHead(HIDDEN, 7, BlockEmbedding(WORDS, WIDTH, blocks=3, density=0.6))
