"""Windows through CUDA graphs, with an imitation of torch's function that captures them.

What a card does is not seen here: only when a graph is made and used, what goes into it and comes out, and that what
it holds is never taken for that of another window.
"""

import copy
import pickle

import pytest
import torch

from sparsernn.core.errors import InputError
from sparsernn.kernels import triton_language
from sparsernn.nn import RHN, BlockLSTM, Elman
from sparsernn.nn.blocks import batched_lstm
from sparsernn.nn.cells.onlstm import ONLSTM
from sparsernn.nn.drive import captured_loop
from sparsernn.nn.drive.recurrent import within
from sparsernn.sparsity import sparsify

LAYERS = {
    "rhn": lambda: RHN(3, 6, depth=2, state_dropout=0.5),
    "rhn with a gate more": lambda: RHN(3, 6, coupled=False, depth=2, learn_initial_state=True),
    "onlstm": lambda: ONLSTM(3, 6, chunk_size=2, weight_drop=0.5),
    "elman": lambda: Elman(3, 6, map="orthogonal", nonlinearity="modrelu", learn_initial_state=True),
}
T, B = 12, 2


class Graphs:
    """Graphs as torch makes them: one place for each input, result and gradient, written anew whenever one runs.

    Attributes:
        made: shapes of the inputs of each graph.
        runs: how often one was run.
    """

    def __init__(self):
        self.made, self.runs = [], 0

    def __call__(self, function, samples):
        self.made.append(tuple(samples[0].shape))
        assert all(t.is_leaf for t in samples)
        places, held = {}, {}

        def kept(name, tensors):
            if name not in places:
                places[name] = [t.detach().clone() for t in tensors]
            for place, tensor in zip(places[name], tensors, strict=True):
                place.copy_(tensor)
            return tuple(place.detach() for place in places[name])

        class Run(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *inputs):
                self.runs += 1
                with torch.no_grad():
                    for own, given in zip(samples, inputs, strict=True):
                        own.copy_(given)
                with torch.enable_grad():
                    held["results"] = function(*samples)
                return kept("results", held["results"])

            @staticmethod
            def backward(ctx, *gradients):
                wanted = [t for t in samples if t.requires_grad]
                found = torch.autograd.grad(held["results"], wanted, gradients, retain_graph=True)
                found = iter(kept("gradients", found))
                return tuple(next(found) if t.requires_grad else None for t in samples)

        return Run.apply


@pytest.fixture
def graphs(monkeypatch):
    """Lets the CPU's tensors be captured by the imitation."""
    made = Graphs()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", made)
    monkeypatch.setattr(captured_loop, "refuse_unless_on_card", lambda u: None)
    return made


def captured(name):
    """A layer whose windows are captured, and its twin, whose are not."""
    torch.manual_seed(0)
    twin = LAYERS[name]().double()
    layer = copy.deepcopy(twin)
    layer.captured = True
    return layer, twin


def windows(layer, lengths, seed=0):
    """Outputs and gradients of windows one after the other, whose states are carried and whose gradients add up."""
    random, state, found = torch.Generator().manual_seed(seed), None, []
    torch.manual_seed(seed)  # the same dropouts
    for steps in lengths:
        x = torch.randn(steps, B, 3, generator=random, dtype=torch.double, requires_grad=True)
        y, state = layer(x, state)
        (y.square().sum() + sum(part.sin().sum() for part in state)).backward()
        found.append((y, x.grad))
        state = tuple(part.detach() for part in state)
    return [t for pair in found for t in pair] + [*state, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("name", LAYERS)
def test_a_graph_gives_what_the_loop_gives(graphs, name):
    """Also results and gradients of windows before, which another run of the graph must not reach."""
    layer, twin = captured(name)
    lengths = [T] * 6
    for ours, exact in zip(windows(layer, lengths), windows(twin, lengths), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    # where the first state is learnt, the first window is one of a kind
    assert graphs.made == [(T, B, *graphs.made[0][2:])]
    assert graphs.runs >= 3


def test_shapes_that_come_often_are_captured(graphs):
    layer, twin = captured("rhn")
    lengths = [T, 5, T, T, 5, T]
    for ours, exact in zip(windows(layer, lengths), windows(twin, lengths), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    assert [steps for steps, *_ in graphs.made] == [T]
    assert graphs.runs == 2
    windows(layer, [5])
    assert [steps for steps, *_ in graphs.made] == [T, 5]


@pytest.mark.parametrize("name", LAYERS)
def test_random_windows_are_filled_up_to_a_few_lengths(graphs, name):
    """From the third length on; the state after each is that of its own last step."""
    layer, twin = captured(name)
    lengths = [11, 12, 13, 9, 15, 10, 14, 16, 11, 17, 12]
    for ours, exact in zip(windows(layer, lengths), windows(twin, lengths), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    assert graphs.made == [(16, B, *graphs.made[0][2:])]
    assert graphs.runs == 6  # of nine from the third length on; two come too soon, and one is longer


def test_there_are_no_more_than_a_few(graphs, monkeypatch):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    monkeypatch.setattr(captured_loop, "FEW", 100)
    layer, twin = captured("rhn")
    lengths = list(range(2, 5 + captured_loop.MOST)) * 2
    for ours, exact in zip(windows(layer, lengths), windows(twin, lengths), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    assert len(graphs.made) == captured_loop.MOST
    assert graphs.runs == 2 * captured_loop.MOST


def test_a_window_that_is_still_to_go_back_keeps_its_graph(graphs, monkeypatch):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    results = []
    for layer in captured("rhn with a gate more"):
        torch.manual_seed(0)
        x, other = (torch.randn(T, B, 3, dtype=torch.double) for _ in range(2))
        first, second = layer(x)[0], layer(other)[0]
        second.sum().backward()
        first.square().sum().backward()
        results.append([first, second, *(p.grad for p in layer.parameters())])
    assert graphs.runs == 1
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def test_a_window_that_never_goes_back_gives_its_graph_up(graphs, monkeypatch):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    layer, _ = captured("rhn")
    for _ in range(3):
        layer(torch.zeros(T, B, 3, dtype=torch.double))
    assert graphs.runs == 3


def test_gradients_that_are_no_more_there_are_refused(graphs, monkeypatch):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    layer, _ = captured("rhn")
    x = torch.ones(T, B, 3, dtype=torch.double)
    y, _ = layer(x)
    first = torch.autograd.grad(y.sum(), list(layer.parameters()), retain_graph=True)
    again = torch.autograd.grad(y.sum(), list(layer.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    layer(x)[0].sum().backward()
    with pytest.raises(InputError, match="another window had taken its place"):
        y.sum().backward()


def test_what_is_no_plain_window_of_training_is_not_captured(graphs, monkeypatch):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    layer, _ = captured("rhn")
    x = torch.ones(T, B, 3, dtype=torch.double)
    layer(x, lengths=torch.tensor([T, 4]))
    with torch.no_grad():
        layer(x)
    layer.eval()(x)
    layer.train().float()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x.float())
    sparse = RHN(3, 16, depth=1, product="sparse")
    sparse.captured = True
    sparsify(sparse, torch.optim.SGD(sparse.parameters(), lr=0.1), method="static", density=0.5)
    sparse(x.float())
    assert sparse.cell.reads_sparsely
    layer.naive = True
    layer(x.float())
    layer.naive = layer.captured = False
    layer(x.float())
    assert graphs.made == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_captures_for_itself(graphs, monkeypatch, copied):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    layer, _ = captured("rhn")
    x = torch.ones(T, B, 3, dtype=torch.double)
    layer(x)[0].sum().backward()
    twin = copied(layer)
    twin(x)[0].sum().backward()
    assert len(graphs.made) == 2


@pytest.mark.skipif(
    not triton_language.installed() or not triton_language.multiplies(torch.float64),
    reason="no products of float64 in this Triton",
)
def test_a_window_in_one_launch_may_be_captured(graphs, interpreted, monkeypatch):
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    layer, twin = captured("rhn")
    expected = windows(twin, [2])
    interpreted.way = 1
    interpreted.launched.clear()
    for ours, exact in zip(windows(layer, [2]), expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    assert (graphs.runs, interpreted.launched) == (1, ["_ahead_window", "_back_window"])


def test_blocks_that_are_read_at_once_may_be_captured(graphs, monkeypatch):
    """In windows of training that are not ragged; weights that are dropped are drawn outside the graph."""
    monkeypatch.setattr(captured_loop, "AFTER", 1)
    torch.manual_seed(0)
    layer = BlockLSTM(6, 12, blocks=3, weight_drop=0.5).double()
    x = torch.randn(T, B, 6, dtype=torch.double)
    start, found = torch.zeros(1, B, 12, dtype=torch.double), []
    parts = layer._parts(layer._own())
    for loops in (None, layer._loops, layer._loops):
        torch.manual_seed(1)
        y, h, c = batched_lstm.read(parts, x, start, start, 0.5, None, loops)
        loss = y.square().sum() + h.sin().sum() + c.sum()
        found.append((y, h, c, *torch.autograd.grad(loss, list(layer.parameters()))))
    for captured in found[1:]:
        for ours, exact in zip(captured, found[0], strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    assert graphs.runs == 2
    batched_lstm.read(parts, x, start, start, 0.5, within(torch.tensor([T, 2]), T, B), layer._loops)
    assert graphs.runs == 2


def test_the_cpu_has_no_graphs():
    layer, _ = captured("rhn")
    x = torch.ones(T, B, 3, dtype=torch.double)
    with pytest.raises(
        InputError, match=r"captured is True, but the layer reads on 'cpu'; .*let it be False"
    ):
        layer(x)
    layer.eval()(x)


def test_layers_that_were_saved_before_there_were_graphs_still_compute():
    layer, x = RHN(3, 4, depth=2), torch.rand(5, 2, 3)
    wanted, _ = layer(x)
    for name in ("captured", "_loops"):
        del layer.__dict__[name]
    assert layer(x)[0].equal(wanted)
