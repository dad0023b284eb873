"""Linear systems, where the gradient of all that follows has a closed form."""

import pytest
import torch
from torch import nn

from sparsernn.gradients import SyntheticGradient
from sparsernn.gradients.gradient_probe import future_gradient, probe
from sparsernn.gradients.synthesizer import MLP, Synthesizer

T, H = 3, 5


class System(nn.Module):
    """h' = A h; the loss of a window is half the sum of the squares of its T states, summed over the batch."""

    def __init__(self, radius=0.9):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(H, H, generator=generator).double()
        self.a = nn.Parameter(a * radius / torch.linalg.eigvals(a).abs().max())

    def initial_state(self, batch):
        return (torch.eye(batch, H).double(),)

    def read(self, state):
        (h,), loss = state, 0.0
        for _ in range(T):
            h = h @ self.a.T
            loss = loss + h.square().sum() / 2
        return loss, (h,)


class Linear(Synthesizer):
    """P h."""

    def __init__(self, p):
        super().__init__()
        self.p = nn.Parameter(p.clone())

    def forward(self, x, memory=None):
        return x @ self.p.T, None


def closed_form(a, gamma, halved=False):
    """P = Q + gamma M' P M with M = A^T, Q = sum over j = 1..T of (A^j)' A^j; twice as much on the left if halved."""
    powers = [torch.linalg.matrix_power(a, j) for j in range(1, T + 1)]
    q, m = sum(p.T @ p for p in powers), powers[-1]
    left = (1 + halved) * torch.eye(H * H).double() - gamma * torch.kron(m.T, m.T)
    return torch.linalg.solve(left, q.flatten()).reshape(H, H)


def slope_at(boundary, system, p):
    """Gradient of the synthesizer's loss at its weights p, from one window that starts at the basis vectors."""
    boundary.synthesizer = Linear(p)
    boundary.optimizer = torch.optim.SGD(boundary.synthesizer.parameters(), lr=1e-30)
    loss, after = system.read(boundary.enter(system.initial_state(H), False))
    roots, gradients = boundary.roots(after, H, False)
    torch.autograd.backward([loss, *roots], [None, *gradients])
    boundary.learn()
    return boundary.synthesizer.p.grad


def fixed_point(**settings):
    """Where the synthesizer's loss is flat: at the basis vectors its gradient is 2 (P - target), transposed."""
    system = System()
    boundary = SyntheticGradient(system, 1, 1, scale="none", loss="sum", clip=None, **settings)
    p = torch.zeros(H, H).double()
    for _ in range(400):
        p = p - slope_at(boundary, system, p) / (4 if settings.get("two_pass") else 2)
    return p, system.a.detach()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
def test_target_has_the_fixed_point_of_the_closed_form(gamma):
    p, a = fixed_point(gamma=gamma)
    torch.testing.assert_close(p, closed_form(a, gamma), rtol=0, atol=1e-10)


def test_bootstrapped_targets_of_real_epochs_have_the_same_fixed_point():
    p, a = fixed_point(gamma=1.0, start="real")
    torch.testing.assert_close(p, closed_form(a, 1.0), rtol=0, atol=1e-10)


def test_two_passes_have_the_fixed_point_of_half_the_target():
    p, a = fixed_point(gamma=1.0, two_pass=True)
    torch.testing.assert_close(p, closed_form(a, 1.0, halved=True), rtol=0, atol=1e-10)
    true = closed_form(a, 1.0)
    assert (p - true).norm() / true.norm() > 0.5


def test_without_discount_it_is_the_gradient_of_everything_that_follows():
    a = System().a.detach()
    powers = [torch.linalg.matrix_power(a, j) for j in range(1, 400)]
    torch.testing.assert_close(closed_form(a, 1.0), sum(p.T @ p for p in powers))


class Endless:
    """The system as a task."""

    batch_size = H

    class Window:
        targets = torch.zeros(H)

    def loss(self, model, batch, state):
        loss, after = model.read(state)
        return loss.detach(), loss, after


def test_probe_finds_the_closed_form_right_and_zero_wrong():
    system = System()
    boundary = SyntheticGradient(system, 1, 1, scale="none", gamma=0.7)
    windows = [Endless.Window()] * 70
    true = future_gradient(system, Endless(), windows, system.initial_state(H), boundary, gamma=0.7)
    torch.testing.assert_close(true, closed_form(system.a.detach(), 0.7).T, rtol=0, atol=1e-10)
    boundary.synthesizer = Linear(closed_form(system.a.detach(), 0.7))
    found = probe(system, Endless(), boundary, windows, horizon=66)
    assert found == pytest.approx({"cosine": 1.0, "r2": 1.0, "rms_ratio": 1.0})
    boundary.synthesizer = Linear(-closed_form(system.a.detach(), 0.7) / 2)
    found = probe(system, Endless(), boundary, windows, horizon=66)
    assert found == pytest.approx({"cosine": -1.0, "r2": 1 - 1.5**2, "rms_ratio": 0.5})


def test_a_linear_synthesizer_that_sees_the_label_is_exact():
    """Squared error of a linear model: its gradient, W' (W h - y), is linear in h and y together, not in h alone.

    Source: W. M. Czarnecki et al., "Understanding Synthetic Gradients and Decoupled Neural Interfaces", 2017,
    arXiv:1703.00522.
    """
    generator = torch.Generator().manual_seed(0)
    w, h, y = (torch.randn(n, k, generator=generator).double() for n, k in ((2, H), (60, H), (60, 2)))
    true = (h @ w.T - y) @ w
    errors = []
    for context in (None, y):
        model = MLP(H, hidden_sizes=[], context_size=0 if context is None else 2).double()
        read = h if context is None else torch.cat((h, context), 1)
        model.linears[0].weight.data = torch.linalg.lstsq(read[:40], true[:40]).solution.T
        unseen = None if context is None else context[40:]
        errors.append(float((model(h[40:], context=unseen)[0] - true[40:]).abs().max().detach()))
    assert errors[1] < 1e-12 < 0.1 < errors[0]
