"""The language model: published counts, dropouts in the right places, exact removal of units."""

import itertools

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.models import LanguageModel
from sparsernn.models.text_sampler import sample
from sparsernn.sparsity import DEFAULTS, sparsify
from sparsernn.structure.units import remove

MIXTURE = {"name": "mixture", "experts": 3}
SPLIT = {"name": "split", "splits": [6, 15]}
STRIPS = {"embedding": {"name": "block", "blocks": 4, "density": 0.6}}
BLOCKS = {"layer": [{"name": "block_lstm", "blocks": 2, "density": 0.75}, "lstm"]}
# head, embedding size, last hidden size, tied, other settings
TOPS = [
    ("linear", 12, 12, False),
    ("linear", 12, 12, True),
    (MIXTURE, 12, 10, False),
    (MIXTURE, 12, 10, True),
    (MIXTURE, 12, 12, True),
    ({"name": "mixture", "experts": 1, "projection": "never"}, 12, 12, True),
    (SPLIT, 12, 12, False),
    (SPLIT, 12, 12, True),
    ("linear", 12, 12, True, STRIPS),
    ("linear", 12, 12, False, STRIPS | BLOCKS),
    (MIXTURE, 12, 10, False, STRIPS),
    (MIXTURE, 12, 10, True, BLOCKS),
]


@pytest.fixture(params=TOPS, ids=str)
def top(request):
    """Settings of a language model with each head, tied and not."""
    head, embedding, last, tied, *more = request.param
    settings = {"embedding_size": embedding, "hidden_sizes": [16, last], "head": head, "tied": tied}
    return settings | dict(*more)


PUBLISHED = {
    "stacked LSTM, PTB": (66_034_000, 10_000, {"embedding_size": 1500, "hidden_sizes": [1500, 1500]}),
    # logged by users of the mixture's own code
    "mixture of softmaxes, WikiText-2": (
        34_909_528,
        33_278,
        {
            "embedding_size": 300,
            "hidden_sizes": [1150, 1150, 650],
            "head": {"name": "mixture", "experts": 15},
            "tied": True,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_count(name):
    count, vocabulary, settings = PUBLISHED[name]
    with torch.device("meta"):
        model = LanguageModel(vocabulary, **settings)
    assert sum(p.numel() for p in model.parameters()) == count


def test_parameter_names_are_the_contract():
    names = [name for name, _ in LanguageModel(9, 4, [5, 5]).named_parameters()]
    layer = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    layers = [f"layers.{k}.{name}" for k in (0, 1) for name in layer]
    assert names == ["embedding.weight", *layers, "head.weight", "head.bias"]


@pytest.mark.parametrize("where", ["embedding", "input", "hidden", "output"])
@pytest.mark.parametrize("locked", [False, True])
def test_each_dropout_acts_in_training_and_not_in_evaluation(where, locked):
    torch.manual_seed(0)
    model = LanguageModel(9, 4, [5, 5], dropout={where: 0.5, "locked": locked})
    words = torch.randint(9, (6, 3))
    assert not torch.equal(model(words).dropped, model(words).dropped)
    model.eval()
    assert torch.equal(model(words).dropped, model(words).dropped)


def test_locked_dropout_is_one_mask_for_all_steps_and_plain_is_not():
    torch.manual_seed(0)
    words = torch.randint(9, (6, 3))
    for locked in (True, False):
        features = LanguageModel(9, 40, [40], dropout={"output": 0.5, "locked": locked})(words)
        gone = features.dropped == 0
        assert bool((gone == gone[0]).all()) is locked


def test_embedding_dropout_drops_whole_word_types():
    torch.manual_seed(0)
    model = LanguageModel(50, 4, [5], dropout={"embedding": 0.5})
    vectors = model.embedding(torch.arange(50).repeat(2, 1))
    gone = (vectors == 0).all(-1)
    assert torch.equal(gone[0], gone[1])
    assert 10 < gone[0].sum() < 40
    kept = vectors[0][~gone[0]]
    torch.testing.assert_close(kept, 2 * model.embedding.weight[~gone[0]])


def test_removing_zeroed_units_changes_nothing(top):
    torch.manual_seed(0)
    model = LanguageModel(20, **top).double().eval()
    words = torch.randint(20, (5, 3))
    keep = [torch.arange(units.width) % 3 != 0 for units in model.units()]
    for units, kept in zip(model.units(), keep, strict=True):
        units.zero((~kept).nonzero().squeeze(1))
    before = model.head.log_prob(model(words).raw)
    cuts = remove(model, model.units(), keep)
    torch.testing.assert_close(model.head.log_prob(model(words).raw), before, rtol=0, atol=1e-12)
    assert [layer.hidden_size for layer in model.layers] == [int(k.sum()) for k in keep]
    assert model.tied is top["tied"]
    assert all(cut.apply(cut.old).shape == cut.new.shape for cut in cuts)
    model.head.nll(model(words).raw, words).mean().backward()


def test_a_projecting_head_leaves_the_embedding_to_itself():
    model = LanguageModel(20, 12, [16, 12], head=MIXTURE, tied=True)
    owned = {id(s.parameter) for s in model.units()[-1].slices}
    assert id(model.embedding.weight) not in owned
    assert id(model.layers[0].weight_ih) not in owned
    assert {id(model.head.prior), id(model.head.latent)} <= owned
    plain = LanguageModel(20, 12, [16, 12], tied=True)
    owned = {id(s.parameter) for s in plain.units()[-1].slices}
    assert {id(plain.embedding.weight), id(plain.layers[0].weight_ih)} <= owned


def test_text_can_be_drawn_under_every_head(top):
    torch.manual_seed(0)
    model = LanguageModel(20, **top)
    draws = list(itertools.islice(sample(model, [3, 4], torch.Generator().manual_seed(0)), 200))
    assert set(draws) <= set(range(20))
    assert len(set(draws)) > 10


@pytest.mark.parametrize("method", sorted(DEFAULTS))
def test_every_mask_method_works_under_every_head(top, method):
    torch.manual_seed(0)
    model = LanguageModel(20, **top)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    sparsifier = sparsify(model, optimizer, method=method, density=0.5, total_steps=40, steps_per_epoch=2)
    matrices = {name for name, p in model.named_parameters() if p.ndim == 2}
    assert set(sparsifier.masks()) == matrices
    for _ in range(6):
        words = torch.randint(20, (5, 3))
        optimizer.zero_grad()
        model.head.nll(model(words).dropped, words).mean().backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    for name, mask in sparsifier.masks().items():
        assert not model.get_parameter(name)[~mask].any()
    active = sum(int(mask.sum()) for mask in sparsifier.masks().values())
    total = sum(mask.numel() for mask in sparsifier.masks().values())
    assert active == pytest.approx(total / 2, abs=len(matrices))


@pytest.mark.parametrize("layer", [{"name": "lstm"}, {"name": "block_lstm", "blocks": 3, "density": 0.5}])
def test_weight_drop_acts_in_training_from_the_second_step_on_and_only_where_kept(layer):
    torch.manual_seed(0)
    words = torch.randint(9, (6, 3))
    model = LanguageModel(9, 6, [12], layer={**layer, "weight_drop": 0.5})
    a, b = model(words).raw, model(words).raw
    assert torch.equal(a[0], b[0])
    assert not torch.allclose(a[1:], b[1:])
    model.eval()
    calm = model(words).raw
    model.train()
    model(words).raw.square().sum().backward()
    for name, p in model.layers.named_parameters():
        if "weight_hh" in name:
            assert 0.3 < (p.grad == 0).double().mean() < 0.7
            assert p.is_leaf
    copy = LanguageModel(9, 6, [12], layer={**layer, "weight_drop": 0.5})
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.eval()(words).raw, calm)
    assert torch.equal(model.eval()(words).raw, calm)


def test_a_list_has_one_layer_for_each_size():
    layer = ["lstm", {"name": "block_lstm", "blocks": 2, "density": 0.75}, "rhn"]
    model = LanguageModel(9, 6, [8, 10, 6], layer=layer)
    assert [type(member).__name__ for member in model.layers] == ["LSTM", "BlockLSTM", "RHN"]
    assert [(member.input_size, member.hidden_size) for member in model.layers] == [(6, 8), (8, 10), (10, 6)]
    assert model(torch.zeros(5, 2, dtype=torch.long)).raw.shape == (5, 2, 6)


def test_an_embedding_in_strips_learns_as_the_dense_one_with_its_zeros():
    torch.manual_seed(0)
    words, target = torch.randint(20, (7, 3)), torch.randint(20, (7, 3))
    strips = LanguageModel(20, 12, [16, 12], tied=True, **STRIPS).double()
    dense = LanguageModel(20, 12, [16, 12], tied=True).double()
    own = {name: value for name, value in strips.state_dict().items() if name.startswith("layers.")}
    table = {"embedding.weight": strips.embedding.dense(), "head.weight": strips.embedding.dense()}
    dense.load_state_dict(own | table | {"head.bias": strips.head.bias})
    losses = []
    for model in (strips, dense):
        loss = model.head.nll(model(words).dropped, target).mean()
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(strips.layers[0].weight_ih.grad, dense.layers[0].weight_ih.grad)
    there = strips.embedding.dense() != 0
    strips.embedding.load_state_dict(
        {f"strip_{n}": strip.grad for n, strip in enumerate(strips.embedding.strips)}, strict=False
    )
    torch.testing.assert_close(strips.embedding.dense(), dense.embedding.weight.grad * there)


@pytest.mark.parametrize("more", [{}, STRIPS])
def test_idle_weights_count_and_do_nothing_else(more):
    settings = {"embedding_size": 12, "hidden_sizes": [16, 12], "tied": True, **more}
    torch.manual_seed(0)
    plain = LanguageModel(20, **settings)
    torch.manual_seed(0)
    idle = LanguageModel(20, head={"name": "linear", "idle_prior": True}, **settings)
    counts = [sum(p.numel() for p in model.parameters()) for model in (plain, idle)]
    assert counts[1] == counts[0] + 12
    words = torch.randint(20, (5, 3))
    assert torch.equal(plain.head.log_prob(plain(words).raw), idle.head.log_prob(idle(words).raw))
    idle.head.nll(idle(words).raw, words).mean().backward()
    assert idle.head.prior.grad is None
    keep = [torch.arange(units.width) % 3 != 0 for units in idle.units()]
    remove(idle, idle.units(), keep)
    assert idle.head.prior.shape == (8,)


def test_group_norms_by_hand():
    torch.manual_seed(0)
    model = LanguageModel(7, 3, [4, 5])
    units, a, b = model.units()[0], model.layers[0], model.layers[1]
    for k in range(4):
        rows = [k + 4 * gate for gate in range(4)]
        cells = a.weight_hh.clone()
        own = a.weight_ih[rows].square().sum() + b.weight_ih[:, k].square().sum()
        outside = torch.zeros_like(cells, dtype=torch.bool)
        outside[rows], outside[:, k] = True, True
        expected = (own + cells[outside].square().sum()).sqrt()
        torch.testing.assert_close(units.norms()[k], expected.detach())


def test_a_layer_keeps_at_least_one_unit():
    model = LanguageModel(7, 3, [4])
    with pytest.raises(InputError, match="keep at least one"):
        remove(model, model.units(), [torch.zeros(4, dtype=torch.bool)])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_sizes": []}, "hidden_sizes is .*; it must be a list of 1 or more"),
        ({"hidden_sizes": 4}, "hidden_sizes is 4; it must be a list"),
        (
            {"hidden_sizes": [4, 0]},
            "hidden_sizes is .4, 0.; it must be a list .* each entry a whole number of at least 1",
        ),
        ({"hidden_sizes": [4, "x"]}, "hidden_sizes is .* 'x'"),
        ({"hidden_sizes": [4], "embedding_size": -5}, "embedding_size is -5; it must be a whole number"),
        ({"hidden_sizes": [4], "embedding_size": 2.0}, "embedding_size is 2.0"),
        ({"hidden_sizes": [4], "dropout": 0.5}, "dropout is 0.5; it must be a mapping"),
        ({"hidden_sizes": [4], "tied": True}, "tied weights need"),
        ({"hidden_sizes": [4], "tied": True, "head": "split"}, "tied weights need .* they are 4 and 3"),
        ({"hidden_sizes": [4], "head": "mixtur"}, "Did you mean 'mixture'"),
        ({"hidden_sizes": [4], "head": {"name": "mixture", "experts": 0}}, "experts is 0"),
        ({"hidden_sizes": [4], "dropout": {"inptu": 0.1}}, "Did you mean 'input'"),
        ({"hidden_sizes": [4], "dropout": {"input": 1.0}}, r"a finite number in \[0, 1\)"),
        ({"hidden_sizes": [4, 4], "layer": ["lstm"]}, r"a list of 2, one for each hidden size"),
        ({"hidden_sizes": [4], "layer": ["lstm", "lstm"]}, r"layer is \['lstm', 'lstm'\]; it must be one"),
        (
            {"hidden_sizes": [4], "layer": 3},
            "layer is 3; it must be a name or a mapping with the key 'name' or a list",
        ),
        ({"hidden_sizes": [4], "embedding": "blok"}, "Did you mean 'block'"),
        ({"hidden_sizes": [4], "embedding": {"name": "block", "dropout": 0.1}}, "no setting 'dropout'"),
        ({"hidden_sizes": [4], "embedding": {"name": "block", "blocks": 0}}, "blocks is 0"),
        (
            {"hidden_sizes": [4], "tied": True, "embedding": {"name": "block", "blocks": 2}},
            "they are 4 and 3",
        ),
        ({"hidden_sizes": [4], "layer": "lstmm"}, "Did you mean 'lstm'"),
        ({"hidden_sizes": [4], "layer": {"name": "lstm", "drop": 1}}, "it accepts: weight_drop, batch_first"),
        ({"hidden_sizes": [4], "layer": {"name": "lstm", "weight_drop": "x"}}, "layer.weight_drop is 'x'"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(settings, words):
    with pytest.raises(InputError, match=words):
        LanguageModel(7, **{"embedding_size": 3, **settings})
