"""The loops over time.

`scan_naively` steps a function through time under autograd: the definition, and the only loop for cells that are a
plain `step`. `scan` drives stages (recurrent products with element-wise rules between them) with a backward pass of
its own: the loop holds nothing but the recurrent product and the rule, and each weight's gradient is ONE product over
all time steps, where autograd would add up T small ones.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.precision import exactly, rounding
from sparsernn.core.torch_releases import is_exporting
from sparsernn.kernels import recurrence_kernel
from sparsernn.nn.drive.cell import CellState, Kept, Stage, step
from sparsernn.nn.drive.sparse_weight import SparseBack, SparseForth
from sparsernn.nn.drive.step_product import FromFirst, OntoFirst, Product, RoundedProduct, recurrent_product
from sparsernn.nn.drive.whole_window import WholeWindow, pays, suits, window_of

Outcome = tuple[Tensor, CellState]
SHORT = 10
"""Steps below which autograd is as fast for the lightest rules (Elman 128, batch 20, AMD EPYC, one thread: 4 steps
take 1.16 ms here and 1.0 ms there); rules of several operations gain from the second step on (ON-LSTM 120: 1.55x)."""


def scan_naively(
    one: Callable[[Tensor, CellState], CellState],
    u: Tensor,
    state: CellState,
    valid: Tensor | None = None,
) -> Outcome:
    """Drive `one(u_t, state) -> state` over u (T, B, G).

    Args:
        one: one time step.
        u: what each step reads.
        state: before the first step.
        valid: bool (T, B, 1); where it is False the state stays and the output is 0.

    Returns:
        The first tensor of the state after each step, (T, B, H), and the last state.

    Example:
        >>> y, _ = scan_naively(lambda u, s: (s[0] + u,), torch.ones(3, 1, 1), (torch.zeros(1, 1),))
        >>> y.flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    outputs = []
    for t, u_t in enumerate(u.unbind(0)):  # u[t] under autograd would cost a full-size gradient per step
        after = one(u_t, state)
        if valid is not None:
            after = tuple(torch.where(valid[t], new, old) for new, old in zip(after, state, strict=True))
        state = after
        outputs.append(state[0])
    y = torch.stack(outputs)
    return (y if valid is None else y * valid), state


def scan(stages: Sequence[Stage], u: Tensor, state: CellState, valid: Tensor | None = None) -> Outcome:
    """The same as `scan_naively` over the stages, with gradients to u, the state, and all tensors of the stages.

    Nothing is kept where nothing needs a gradient.

    Args:
        stages: of one time step, fixed for the window.
        u: (T, B, G of the first stage).
        state: before the first step.
        valid: see `scan_naively`.
    """
    if is_exporting():  # a graph for other programs holds none of our kernels
        return scan_naively(lambda u_t, before: step(stages, u_t, before), u, state, valid)
    return exactly(_scan, stages, u, state, valid, rounding(u.device))


def _scan(
    stages: Sequence[Stage], u: Tensor, state: CellState, valid: Tensor | None, rounded: torch.dtype | None
) -> Outcome:
    """With operands of the recurrent products rounded to a type, or not; all else as it comes."""
    learnt = [_learnt(stage) for stage in stages]
    flat = [t for tensors in learnt for t in tensors if t is not None]
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (u, *state, *flat))
    if learns and len(u) < (SHORT if stages[0].rule.window else 2):
        return scan_naively(lambda u_t, before: step(stages, u_t, before), u, state, valid)
    frame = Frame(stages, valid, len(state), rounded)
    if _whole_pays(frame, u, state, learns):
        frame = frame._replace(whole=window_of(stages))
    if not learns:
        return _run(frame, u, state, NoTape(state[0], len(u), len(stages)))
    y, *last = _Scan.apply(frame, u, *state, *chain(*learnt))  # type: ignore[no-untyped-call]
    return y, tuple(last)


def _whole_pays(frame: "Frame", u: Tensor, state: CellState, learns: bool) -> bool:
    """Whether one launch for the window is the faster way, on a device that has it."""
    stages = frame.stages
    if frame.valid is not None or frame.rounded is not None or not suits(stages, u, state):
        return False

    def step_by_step() -> None:
        if not learns:
            _run(frame, u, state, NoTape(state[0], len(u), len(stages)))
            return
        tape = Tape(state[0], len(u), len(stages))
        y, last = _run(frame, u, (tape.fed[0], *state[1:]), tape)
        d_pre = [u.new_empty(*u.shape[:2], stage.rows) for stage in stages]
        _run_back(frame, tape.kept, torch.zeros_like(y), [torch.zeros_like(part) for part in last], d_pre)

    return pays(stages, u, state, learns, step_by_step)


class Frame(NamedTuple):
    """What a scan needs besides the tensors that have gradients."""

    stages: Sequence[Stage]
    valid: Tensor | None
    parts: int
    rounded: torch.dtype | None
    whole: WholeWindow | None = None

    def forth(self, stage: Stage, rows: int, uses: int) -> Product:
        """base + a W^T of a stage."""
        if stage.sparse is not None:
            product: Product = SparseForth(stage.sparse)
        else:
            product = self._product(stage.weight.detach(), rows, uses)
        return OntoFirst(product, stage.products) if stage.beside else product

    def back(self, stage: Stage, rows: int, uses: int) -> Product:
        """base + d W."""
        if stage.sparse is not None:
            product: Product = SparseBack(stage.sparse)
        else:
            product = self._product(stage.weight.detach().mT, rows, uses)
        return FromFirst(product, stage.products) if stage.beside else product

    def _product(self, weight: Tensor, rows: int, uses: int) -> Product:
        if self.rounded is None:
            return recurrent_product(weight, rows, uses)
        return RoundedProduct(weight, self.rounded)

    def weight_gradient(self, stage: Stage, operand: Tensor, d_pre: Tensor) -> Tensor:
        """Of a stage's weight, from what it met (T, B, H) and the gradients of pre (T, B, G or more)."""
        if stage.weight.dim() > 2:
            return torch.bmm(_by_part(d_pre, stage).mT, _by_part(operand, stage))
        operand, rows = operand.flatten(0, 1), d_pre.flatten(0, 1)[:, : stage.products]
        if stage.sparse is not None:
            return stage.sparse.gradient(operand, rows)
        if self.rounded is None:
            return torch.mm(rows.t(), operand)
        return torch.mm(rows.t().to(self.rounded), operand.to(self.rounded)).to(rows.dtype)


def _by_part(t: Tensor, stage: Stage) -> Tensor:
    """(T, N B, F) -> (N, T B, F)."""
    parts = len(stage.weight)
    return t.view(len(t), parts, t.shape[1] // parts, -1).transpose(0, 1).flatten(1, 2)


def _learnt(stage: Stage) -> list[Tensor | None]:
    """The tensors of a stage that may want gradients, always the same number of them."""
    return [stage.weight, stage.bias, *stage.rule.parameters]


class NoTape:
    """Keeps the outputs of the steps and nothing else."""

    def __init__(self, start: Tensor, steps: int, stages: int) -> None:
        self.fed = [torch.empty_like(start) for _ in range(stages - 1)]
        self.y = start.new_empty(steps, *start.shape)

    def slots(self) -> list[tuple[Tensor, ...]]:
        """For every time step, where the new state of each stage goes."""
        return [(*self.fed, y) for y in self.y.unbind(0)]

    def keep(self, kept: list[Kept]) -> None:
        """Forget it."""

    def outputs(self) -> Tensor:
        """(T, B, H)."""
        return self.y


class Tape:
    """Keeps every fed-back state in one buffer, and what the rules ask for.

    `fed[t * K + k]` is what stage k of time step t reads; the last entry is the final state. `kept` is what rules
    kept of each step, `whole` what a window that ran in one launch did.
    """

    def __init__(self, start: Tensor, steps: int, stages: int) -> None:
        self.steps, self.stages = steps, stages
        self.fed = start.new_empty(steps * stages + 1, *start.shape)
        self.fed[0] = start
        self.kept: list[list[Kept]] = []
        self.whole: CellState = ()

    def slots(self) -> list[tuple[Tensor, ...]]:
        """For every time step, where the new state of each stage goes."""
        each = self.fed[1:].unbind(0)
        return list(zip(*(each[k :: self.stages] for k in range(self.stages)), strict=True))

    def keep(self, kept: list[Kept]) -> None:
        """What the rules kept of one time step."""
        self.kept.append(kept)

    def outputs(self) -> Tensor:
        """(T, B, H)."""
        return self.read(self.stages)

    def read(self, stage: int) -> Tensor:
        """The fed-back tensor before `stage` at every time step, (T, B, H); stage K: after the last."""
        return self.fed[stage :: self.stages][: self.steps]


def _run(frame: Frame, u: Tensor, state: CellState, tape: Tape | NoTape) -> Outcome:
    """The forward loop; in one call where there is one stage without mask, and a kernel for its rule."""
    stages, valid = frame.stages, frame.valid
    if frame.whole is not None:
        return _run_whole(frame.whole, len(stages), u, state, tape)
    plain = frame.rounded is None and stages[0].sparse is None
    if plain and len(stages) == len(state) == 1 and valid is stages[0].mask is None:
        weight, rule = stages[0].weight.detach(), stages[0].rule
        if rule.window and recurrence_kernel.takes_window(rule.window, u, weight, state[0], *rule.parameters):
            y = tape.outputs()
            recurrence_kernel.window_forward(rule.window, u, weight, state[0], y, *rule.parameters)
            return y, (y[-1],)
    products = [frame.forth(stage, u.shape[1], len(u)) for stage in stages]
    links = [(p, s.bias, s.mask, s.rule.forward) for p, s in zip(products, stages, strict=True)]
    bases = u.clone().unbind(0)  # a product may add to its base in place
    for t, slots in enumerate(tape.slots()):
        before, kept = state, []
        for (product, bias, mask, forward), out in zip(links, slots, strict=True):
            operand = state[0] if mask is None else state[0] * mask
            state, seen = forward(product(bases[t] if bias is None else bias, operand), state, out)
            kept.append(seen)
        tape.keep(kept)
        if valid is not None:
            state = _hold(valid[t], state, before)
    y = tape.outputs()
    return (y if valid is None else y * valid), state


def _run_whole(whole: WholeWindow, stages: int, u: Tensor, state: CellState, tape: Tape | NoTape) -> Outcome:
    """In one launch, which hands its states on through a tape in any case."""
    if isinstance(tape, Tape):
        others, tape.whole = whole.forward(u, state, tape.fed, keep=True)
        y = tape.outputs()
    else:
        passing = Tape(state[0], len(u), stages)
        others, _ = whole.forward(u, state, passing.fed, keep=False)
        y = tape.y.copy_(passing.outputs())
    return y, (y[-1] if len(y) else state[0], *others)


def _hold(valid: Tensor, new: CellState, old: CellState) -> CellState:
    """The new state where a sequence goes on; in place, for the tape holds the first tensor."""
    torch.where(valid, new[0], old[0], out=new[0])
    return (new[0], *(torch.where(valid, n, o) for n, o in zip(new[1:], old[1:], strict=True)))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, frame: Frame, u: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        tape = Tape(tensors[0], len(u), len(frame.stages))
        # Copies here too: rules keep states, and the caller may go on to change the ones given.
        state = (tape.fed[0], *(part.clone() for part in tensors[1 : frame.parts]))
        y, last = _run(frame, u, state, tape)
        ctx.frame, ctx.tape = frame, tape
        # Copies: outputs that lie in the tape would let a caller change in place what backward reads.
        return y.clone(), *(part.clone() for part in last)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, d_y: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        stages, valid = ctx.frame.stages, ctx.frame.valid
        if ctx.frame.whole is not None:
            whole, tape = ctx.frame.whole, ctx.tape
            of_stages, d_first = whole.backward((d_y, *d_last), tape.fed, tape.whole)
            return _with_weights(ctx.frame, tape, list(of_stages.unbind(0)), d_first)
        d_pre = [d_y.new_empty(*d_y.shape[:2], s.rows) for s in stages]
        if len(d_y) and not ctx.tape.kept:  # the window ran in one call
            d_state: CellState = (_window_back(stages[0], ctx.tape.outputs(), d_y, d_last[0], d_pre[0]),)
        else:
            # A copy in any case: the loop adds to it in place.
            d_y = d_y.clone(memory_format=torch.contiguous_format) if valid is None else d_y * valid
            d_state = _run_back(ctx.frame, ctx.tape.kept, d_y, d_last, d_pre)
        return _with_weights(ctx.frame, ctx.tape, d_pre, d_state)


def _with_weights(
    frame: Frame, tape: Tape, d_pre: list[Tensor], d_state: CellState
) -> tuple[Tensor | None, ...]:
    """All gradients of a window: of u, of the first state, and of the tensors of the stages."""
    pairs = enumerate(zip(frame.stages, d_pre, strict=True))
    of_stages = [_gradients(frame, stage, pre, tape, k) for k, (stage, pre) in pairs]
    return None, d_pre[0], *d_state, *chain(*of_stages)


def _window_back(stage: Stage, y: Tensor, d_y: Tensor, d_last: Tensor, d_pre: Tensor) -> Tensor:
    """Back through a window in one call: fills `d_pre` and returns the gradient of the first state."""
    kind, weight = stage.rule.window or "", stage.weight.detach()
    return recurrence_kernel.window_backward(kind, d_y, d_last, weight, y, d_pre, *stage.rule.parameters)


def _run_back(
    frame: Frame,
    kept: list[list[Kept]],
    d_y: Tensor,
    d_last: Sequence[Tensor],
    d_pre: list[Tensor],
) -> CellState:
    """The backward loop: fills `d_pre`, adds to `d_y` and returns the gradient of the first state."""
    stages, valid = frame.stages, frame.valid
    products = [frame.back(stage, d_y.shape[1], len(d_y)) for stage in stages]
    links = [(s.rule.backward, p, s.mask) for s, p in zip(stages, products, strict=True)][::-1]
    # What arrives at the state before each step; before the first, nothing does.
    arriving = (torch.zeros_like(d_y[0]), *d_y.unbind(0))
    rows = list(zip(*(pre.unbind(0) for pre in d_pre[::-1]), strict=True))
    d_state = (arriving[-1].add_(d_last[0]), *(d.clone() for d in d_last[1:]))
    for t in range(len(d_y) - 1, -1, -1):
        held, d_state = _release(None if valid is None else valid[t], d_state)
        for k, ((backward, product, mask), d) in enumerate(zip(links, rows[t], strict=True)):
            direct, others = backward(d_state, kept[t][-1 - k], d)
            base = _sum(direct, arriving[t] if k == len(links) - 1 else None, d_state[0])
            d_state = (_through(product, mask, d, base), *others)
        if held:
            d_state = tuple(d + h for d, h in zip(d_state, held, strict=True))
    return d_state


def _release(valid: Tensor | None, d_state: CellState) -> tuple[CellState, CellState]:
    """Where a sequence had ended, its gradient passes by this step: (what passes, what goes through)."""
    if valid is None:
        return (), d_state
    through = tuple(d * valid for d in d_state)
    return tuple(d - g for d, g in zip(d_state, through, strict=True)), through


def _sum(direct: Tensor | None, arriving: Tensor | None, like: Tensor) -> Tensor:
    """What reaches a state besides the product; may be written to."""
    if arriving is None:
        return torch.zeros_like(like) if direct is None else direct
    return arriving if direct is None else arriving.add_(direct)


def _through(product: Product, mask: Tensor | None, d_pre: Tensor, base: Tensor) -> Tensor:
    """d_pre back through the recurrent weight (and its mask), onto what else reaches the state."""
    if mask is None:
        return product(base, d_pre)
    return base.addcmul_(product(base.new_zeros(base.shape[1]), d_pre), mask)


def _gradients(frame: Frame, stage: Stage, d_pre: Tensor, tape: Tape, k: int) -> list[Tensor | None]:
    """Gradients of a stage's tensors, in the order of `_learnt`: one product over all time steps."""
    operand = tape.read(k)
    if stage.mask is not None:
        operand = operand * stage.mask
    d_weight = frame.weight_gradient(stage, operand, d_pre) if stage.weight.requires_grad else None
    d_bias = None if stage.bias is None else d_pre.sum((0, 1))
    outputs = tape.read(k + 1) if stage.rule.parameters else operand
    return [d_weight, d_bias, *stage.rule.parameter_gradients(d_pre, outputs)]
