"""Recurrent maps: what they promise at the start, after training, and about their gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.core.registry import make
from sparsernn.nn.maps import MAPS, Dense, Normal, Orthogonal, RecurrentMap, Rotations, orthogonality_error
from sparsernn.nn.maps.initialisers import ANGLES, haar, planar_rotations
from sparsernn.nn.maps.rotations import turns
from sparsernn.nn.maps.skew import planar_vector, skew_matrix, upper_places

MANIFOLD: dict[str, Callable[[int], RecurrentMap]] = {
    "exp": lambda n: Orthogonal(n),
    "exp from Haar": lambda n: Orthogonal(n, init="random"),
    "cayley": lambda n: Orthogonal(n, map="cayley", init="cayley"),
    "cayley from Henaff": lambda n: Orthogonal(n, map="cayley"),
    "rebased at every step": lambda n: Orthogonal(n, rebase_every=1),
    "rebased at times": lambda n: Orthogonal(n, rebase_every=7),
    "rebased Cayley": lambda n: Orthogonal(n, map="cayley", init="random", rebase_every=5),
    "normal": lambda n: Normal(n),
    "normal from Haar": lambda n: Normal(n, init="random"),
    "rotations": lambda n: Rotations(n, capacity=n),
    "fft": lambda n: Rotations(n, style="fft"),
    "complex rotations": lambda n: Rotations(n, capacity=4, complex=True),
    "complex fft": lambda n: Rotations(n, style="fft", complex=True),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(3)


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def moduli(v: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvals(v.detach()).abs().sort().values


def angles_of(v: torch.Tensor) -> torch.Tensor:
    """The angles in [0, pi], one of each pair, in order."""
    return torch.linalg.eigvals(v.detach()).angle().abs().sort().values[::2]


def train(map: RecurrentMap, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Follow a target that V cannot reach, so that the parameters keep moving."""
    target, losses = torch.randn(map.hidden_size, map.hidden_size), []
    for _ in range(steps):
        loss = (map() - target).abs().square().sum() + map.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# --- counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size", "settings", "expected"),
    [  # the recurrent column of the papers' parameter tables
        ("dense", 128, {}, 16_384),
        ("normal", 128, {}, 16_320),
        ("orthogonal", 128, {}, 8_128),
        ("orthogonal", 176, {}, 15_400),
        ("dense", 512, {}, 262_144),
        ("normal", 512, {}, 261_888),
        ("orthogonal", 512, {}, 130_816),
        ("orthogonal", 722, {}, 260_281),
        ("normal", 1024, {}, 1_048_064),
        ("orthogonal", 1024, {}, 523_776),
        ("orthogonal", 1386, {}, 959_805),
        ("normal", 64, {"mask": "code"}, 64 * 64),
        ("rotations", 64, {"capacity": 64}, 64 * 63 // 2),
        ("rotations", 64, {"capacity": 6}, 6 * 63 // 2),
        ("rotations", 64, {"style": "fft"}, 32 * 6),
        ("rotations", 64, {"capacity": 64, "complex": True}, 64 * 64),
        ("rotations", 64, {"style": "fft", "complex": True}, 64 * 6 + 64),
    ],
)
def test_parameters_are_as_many_as_the_papers_say(kind, size, settings, expected):
    map = make("map", MAPS, {"name": kind, **settings}, hidden_size=size)
    assert count(map) == expected
    assert map.hidden_size == size


@pytest.mark.parametrize("name", MANIFOLD)
def test_every_parameter_is_alive(name):
    """A random gradient of V reaches each of them: none is stored and never used."""
    map = MANIFOLD[name](8)
    for p in map.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    v = map()
    v.backward(torch.randn_like(v))
    for p in map.parameters():
        assert p.grad is not None
        assert (p.grad != 0).all()


# --- the start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFOLD)
def test_orthogonal_at_the_start(name):
    map = MANIFOLD[name](16)
    assert orthogonality_error(map()) < 5e-6
    assert map.is_on_manifold(5e-6)
    torch.testing.assert_close(moduli(map()), torch.ones(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("init", ["cayley", "henaff"])
@pytest.mark.usefixtures("_double")
def test_the_non_normal_map_begins_as_its_schur_form(init):
    """P turns the planes of the blocks, so it cancels."""
    map = Normal(12, init=init)
    torch.testing.assert_close(map(), map.theta(), atol=1e-14, rtol=0)
    torch.testing.assert_close(moduli(map()), torch.ones(12), atol=1e-13, rtol=0)


@pytest.mark.parametrize("map", ["exp", "cayley"])
@pytest.mark.parametrize("init", ["henaff", "henaff_full", "cayley", "normal_diag", "normal_squeeze_diag"])
@pytest.mark.usefixtures("_double")
def test_spectra_at_the_start_are_those_of_the_initialiser(map, init):
    torch.manual_seed(5)
    v = Orthogonal(20, map=map, init=init)()
    torch.manual_seed(5)
    drawn = ANGLES[init](20, None)
    if map == "cayley" and init == "cayley":  # this pair gives the uniform angles that its authors meant
        drawn = 2 * drawn.atan()
    torch.testing.assert_close(angles_of(v), drawn.abs().sort().values, atol=1e-7, rtol=0)
    assert torch.linalg.det(v.detach()) > 0


def test_initialisers_fill_their_ranges():
    generator = torch.Generator().manual_seed(0)
    ranges = {
        "henaff": (-math.pi, 0),
        "henaff_full": (-math.pi, math.pi),
        "cayley": (-1, 0),
        "haar_diag": (0, math.pi),
        "normal_diag": (-math.pi, math.pi),
        "normal_squeeze_diag": (-math.pi / 8, math.pi / 8),
    }
    assert set(ranges) == set(ANGLES)
    for name, (low, high) in ranges.items():
        drawn = ANGLES[name](401, generator)
        assert len(drawn) == 200
        assert low <= drawn.min() < low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) < drawn.max() <= high, name
    # u = 2 arctan(-s) is uniform over [0, pi/2]
    u = -2 * ANGLES["cayley"](20_000, generator).atan()
    assert abs(float(u.mean()) - math.pi / 4) < 0.02
    assert abs(float(u.std()) - math.pi / 2 / math.sqrt(12)) < 0.02


def test_initialisers_repeat_with_their_generator():
    for init in ANGLES:
        first, second = (ANGLES[init](8, torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(first, second)
    assert torch.equal(haar(5, torch.Generator().manual_seed(1)), haar(5, torch.Generator().manual_seed(1)))


def test_haar_matrices_are_uniform():
    """Over SO(4), E tr(Q) = 0, E tr(Q)^2 = 1; signs taken from the diagonal of Q would give a positive trace."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([haar(4, generator) for _ in range(2000)])
    traces = drawn.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(traces.mean())) < 0.08  # 3.5 standard errors of 2000 draws
    assert abs(float(traces.square().mean()) - 1) < 0.15
    assert drawn.mean(0).abs().max() < 0.05
    torch.testing.assert_close(torch.linalg.det(drawn), torch.ones(2000, dtype=torch.float64))


def test_planar_rotations_are_the_exponential_of_their_skew_matrix():
    angles = torch.randn(3, dtype=torch.float64)
    a = skew_matrix(planar_vector(angles, 7), upper_places(7), 7)
    torch.testing.assert_close(planar_rotations(angles, 7), torch.linalg.matrix_exp(a))


def test_dense_beginnings():
    assert abs(float(Dense(300).weight.detach().std()) - math.sqrt(2 / 600)) < 1e-3
    assert abs(float(Dense(300, init="kaiming").weight.detach().std()) - math.sqrt(2 / 300)) < 1e-3
    for init in ("random", "henaff", "cayley"):
        assert orthogonality_error(Dense(9, init=init)()) < 1e-6


# --- the Schur form -----------------------------------------------------------------------------------------------


def stirred(mask: str) -> Normal:
    """Radii, angles, P and what is below the blocks, all away from their start."""
    map = Normal(10, mask=mask, init="random")
    for p in map.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    return map


@pytest.mark.usefixtures("_double")
def test_radii_and_angles_are_the_eigenvalues():
    map = stirred("strict")
    radius, angle = map.radius.detach(), map.angle.detach()
    expected = torch.cat((torch.polar(radius, angle), torch.polar(radius, -angle)))
    found = torch.linalg.eigvals(map().detach())
    distances = (found[:, None] - expected[None, :]).abs()
    assert distances.min(0).values.max() < 1e-9
    assert distances.min(1).values.max() < 1e-9
    # everything that is not normal is in `lower`
    v = map().detach()
    henrici = (v.square().sum() - found.abs().square().sum()).sqrt()
    torch.testing.assert_close(henrici, map.lower.detach().norm())


@pytest.mark.usefixtures("_double")
def test_the_published_mask_gives_the_spectrum_away():
    map = stirred("code")
    radius = map.radius.detach().repeat_interleave(2).sort().values
    assert (moduli(map()) - radius).abs().max() > 1e-2


@pytest.mark.usefixtures("_double")
def test_the_schur_form_entry_by_entry():
    """Against loops over blocks and entries, for both masks."""
    for mask in ("strict", "code"):
        map = stirred(mask)
        expected, values = torch.zeros(10, 10), iter(map.lower.tolist())
        for i in range(5):
            c, s = (map.radius[i] * f(map.angle[i]) for f in (torch.cos, torch.sin))
            block = torch.stack((torch.stack((c, s)), torch.stack((-s, c))))
            expected[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block.detach()
        for row in range(10):
            for column in range(row):
                if mask == "code" or row // 2 != column // 2:
                    expected[row, column] += next(values)
        torch.testing.assert_close(map.theta().detach(), expected)
        p = map.basis().detach()
        torch.testing.assert_close(map().detach(), p @ expected @ p.T)
        assert next(values, None) is None


def test_the_penalty_is_a_sum_over_blocks():
    map = Normal(6, radius_penalty=0.5)
    map.radius.data = torch.tensor([1.0, 3.0, 0.0])
    assert float(torch.as_tensor(map.penalty()).detach()) == 0.5 * (4 + 1)
    assert not Normal(6, train_radius=False).radius.requires_grad
    assert Dense(3).penalty() == 0.0


# --- rotations ----------------------------------------------------------------------------------------------------


def slow_rotations(map: Rotations) -> torch.Tensor:
    """V as a product of full matrices, one per pair, from the paper's equations."""
    n, k = map.hidden_size, 0
    kind = torch.complex128 if map.complex else torch.float64
    v = torch.eye(n, dtype=kind)
    for number, turn in enumerate(map.layers):
        if map.style == "fft":
            distance = n >> (number + 1)
            pairs = [(j, j ^ distance) for j in range(n) if not j & distance]
        else:
            pairs = [(j, j + 1) for j in range(number % 2, n - 1, 2)]
        assert turn.distance == pairs[0][1] - pairs[0][0]
        for a, b in pairs:
            t = map.angle[k].double()
            e = torch.exp(1j * map.phase[k].double()) if map.complex else 1.0
            f = torch.eye(n, dtype=kind)
            f[a, a], f[a, b], f[b, a], f[b, b] = t.cos(), -e * t.sin(), t.sin(), e * t.cos()
            v, k = f @ v, k + 1
    assert k == len(map.angle)
    return torch.diag(torch.exp(1j * map.last.double())) @ v if map.complex else v


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("settings", [{"capacity": 2}, {"capacity": 8}, {"style": "fft"}])
def test_rotations_are_the_product_of_their_pairs(settings, complex):
    map = Rotations(8, complex=complex, **settings)
    v, expected = map(), slow_rotations(map)
    torch.testing.assert_close(v, expected, atol=1e-13, rtol=0)
    g = torch.randn_like(v)
    ours = torch.autograd.grad(v, list(map.parameters()), g)
    theirs = torch.autograd.grad(expected, list(map.parameters()), g)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("settings", [{"capacity": 4}, {"style": "fft"}])
def test_layer_by_layer_is_the_product_with_v(settings, complex):
    map = Rotations(8, complex=complex, **settings)
    h = torch.randn(3, 8, dtype=torch.complex128 if complex else torch.float64, requires_grad=True)
    g = torch.randn_like(h)
    wanted = [h, *map.parameters()]
    layered, product = map.rotate(h), h @ map().mT
    torch.testing.assert_close(layered, product, atol=1e-13, rtol=0)
    for left, right in zip(
        torch.autograd.grad(layered, wanted, g), torch.autograd.grad(product, wanted, g), strict=True
    ):
        torch.testing.assert_close(left, right, atol=1e-12, rtol=0)


def test_distances_of_the_fft_style_halve():
    assert [turn.distance for turn in turns(64, None)] == [32, 16, 8, 4, 2, 1]


# --- gradients and training ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("init", ["henaff", "random"])
def test_gradients_are_those_of_autograd_through_the_exponential(init):
    map, normal = Orthogonal(9, init=init), stirred("strict")
    for m in (map, normal):
        m.skew.data.add_(torch.randn_like(m.skew))
        p = torch.linalg.matrix_exp(skew_matrix(m.skew, m.places, m.hidden_size))
        p = p if m.base is None else m.base @ p
        expected = p if m is map else p @ normal.theta() @ p.T
        g = torch.randn_like(expected)
        ours = torch.autograd.grad(m(), list(m.parameters()), g)
        theirs = torch.autograd.grad(expected, list(m.parameters()), g)
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right, atol=1e-10, rtol=0)


LONG = {"exp": "Adam", "cayley": "RMSprop", "rebased at times": "Adam", "normal": "RMSprop"}


@pytest.mark.parametrize("name", MANIFOLD)
def test_training_stays_on_the_manifold(name):
    """At ten times the published learning rates; in single precision up to 1e-5, entry by entry."""
    map = MANIFOLD[name](8)
    optimizer = getattr(torch.optim, LONG.get(name, "Adam"))(map.parameters(), lr=1e-2)
    losses = train(map, optimizer, 1000 if name in LONG else 100)
    assert map.is_on_manifold(1e-5)
    assert min(losses) < losses[0]


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("name", MANIFOLD)
def test_in_double_precision_the_manifold_is_held_to_rounding(name):
    map = MANIFOLD[name](8)
    train(map, torch.optim.RMSprop(map.parameters(), lr=1e-2), 50)
    assert map.is_on_manifold(1e-10)


@pytest.mark.parametrize("every", [1, 2, 100])
def test_whatever_the_base_it_begins_alike_and_1000_steps_leave_it_orthogonal(every):
    """The published rate of copying, for V and for A, under RMSprop as published."""
    torch.manual_seed(4)
    static = Orthogonal(12, init="random")
    moving = Orthogonal(12, init="random", rebase_every=every)
    moving.load_state_dict(static.state_dict(), strict=False)
    assert torch.equal(static(), moving())
    for map in (static, moving):
        first = map._matrix().detach().clone()
        train(map, torch.optim.RMSprop(map.parameters(), lr=1e-3), 1000)
        assert (map._matrix() - first).abs().max() > 0.1
        assert orthogonality_error(map._matrix()) < 1e-4


def test_v_follows_its_parameters_after_every_step():
    """Nothing is kept from one step to the next: a fresh copy of the parameters gives the same V."""
    for name, build in MANIFOLD.items():
        torch.manual_seed(5)
        map = build(8).eval()  # looking at a map in training counts as a step
        optimizer = torch.optim.SGD(map.parameters(), lr=0.1)
        for _ in range(3):
            before = map().detach().clone()
            torch.manual_seed(0)
            (map() - torch.randn(8, 8)).abs().square().sum().backward()
            optimizer.step()
            fresh = build(8).eval()
            fresh.load_state_dict(map.state_dict())
            assert torch.equal(map(), fresh()), name
            assert not torch.equal(map(), before), name


def test_a_change_of_base_changes_nothing_but_the_coordinates():
    static, moving = Orthogonal(6), Orthogonal(6, rebase_every=3)
    moving.load_state_dict(static.state_dict(), strict=False)
    torch.testing.assert_close(static(), moving(), atol=0, rtol=0)
    moving.skew.data.add_(0.2 * torch.randn(15))
    before = moving._matrix().detach()
    moving.rebase()
    torch.testing.assert_close(moving._matrix(), before, atol=1e-6, rtol=0)
    assert not moving.skew.any()


def test_the_base_changes_after_every_k_steps_of_training():
    map, changes = Orthogonal(4, rebase_every=3), []
    optimizer, before = torch.optim.SGD(map.parameters(), lr=0.1), map.base.clone()
    for _ in range(10):
        map().sum().backward()
        changes.append(not torch.equal(map.base, before))
        before = map.base.clone()
        optimizer.step()
        with torch.no_grad():
            map()  # looking does not count
        map.eval()()
        map.train()
    assert [i for i, changed in enumerate(changes) if changed] == [3, 6, 9]


@pytest.mark.usefixtures("_double")
def test_a_base_change_at_every_step_is_riemannian_descent():
    """With plain gradient steps: V <- V exp(-lr skew gradient), from the gradient in V itself."""
    map, target = Orthogonal(5, init="random", rebase_every=1), torch.randn(5, 5)
    optimizer, v = torch.optim.SGD(map.parameters(), lr=0.05), map._matrix().detach()
    for _ in range(4):
        (map() - target).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        g = 2 * (v - target)
        v = v @ torch.linalg.matrix_exp(-0.05 * (v.T @ g - g.T @ v))
    torch.testing.assert_close(map._matrix().detach(), v, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", MANIFOLD)
def test_saved_and_loaded_it_goes_on_bit_by_bit(name, tmp_path):
    first = MANIFOLD[name](8)
    optimizer = torch.optim.Adam(first.parameters(), lr=1e-2)
    train(first, optimizer, 12)
    torch.save({"map": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved.pt")
    torch.manual_seed(77)
    second = MANIFOLD[name](8)
    again = torch.optim.Adam(second.parameters(), lr=1e-2)
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    second.load_state_dict(saved["map"])
    again.load_state_dict(saved["optimizer"])
    torch.manual_seed(8)
    expected = train(first, optimizer, 9)
    torch.manual_seed(8)
    assert train(second, again, 9) == expected
    assert second.is_on_manifold(1e-5)


@pytest.mark.parametrize("name", MANIFOLD)
def test_v_follows_its_parameters(name):
    """Nothing is kept from one call to the next."""
    map = MANIFOLD[name](8)
    before = map().detach().clone()
    train(map, torch.optim.SGD(map.parameters(), lr=1e-2), 1)
    assert not torch.equal(map().detach(), before)


def test_a_map_serves_a_foreign_layer():
    map, rnn = Orthogonal(6), nn.RNN(3, 6)
    y, _ = torch.func.functional_call(rnn, {"weight_hh_l0": map()}, (torch.randn(4, 2, 3),))
    y.square().sum().backward()
    assert map.skew.grad is not None
    assert map.skew.grad.abs().max() > 0


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "size", "words"),
    [
        ({"name": "normal"}, 5, "hidden_size is 5"),
        ({"name": "normal", "mask": "loose"}, 4, "mask is 'loose'"),
        ({"name": "normal", "radius_penalty": -1.0}, 4, "radius_penalty is -1.0"),
        ({"name": "normal", "init": "xavier"}, 4, "init is 'xavier'"),
        ({"name": "orthogonal", "init": "xavier"}, 4, "init is 'xavier'"),
        ({"name": "orthogonal", "init": "henaf"}, 4, "Did you mean 'henaff'"),
        ({"name": "orthogonal", "map": "expm"}, 4, "map is 'expm'"),
        ({"name": "orthogonal", "rebase_every": 0}, 4, "rebase_every is 0"),
        ({"name": "dense", "init": "zeros"}, 4, "init is 'zeros'"),
        ({"name": "dense"}, 0, "hidden_size is 0"),
        ({"name": "rotations"}, 5, "hidden_size is 5"),
        ({"name": "rotations", "style": "fft"}, 12, "hidden_size is 12"),
        ({"name": "rotations", "style": "fft", "capacity": 4}, 8, "capacity is 4"),
        ({"name": "rotations", "capacity": 3}, 8, "capacity is 3"),
        ({"name": "rotations", "capacity": 10}, 8, "capacity is 10"),
        ({"name": "rotations", "style": "butterfly"}, 8, "style is 'butterfly'"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(spec, size, words):
    with pytest.raises(InputError, match=words):
        make("map", MAPS, spec, hidden_size=size)
    with pytest.raises(InputError, match="rebase_every is None"):
        Orthogonal(4).rebase()
