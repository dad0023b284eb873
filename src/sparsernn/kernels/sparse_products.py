"""Products of a sparse matrix in training: forward, back, and the gradient of the weights that exist.

Compiled for float32 on the CPU, and by Triton for blocks on a CUDA device; the twins in torch, for every floating
type, multiply the dense matrix that the values make. A sum is taken in the same order whatever the number of threads.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsernn.core.autograd_context import Context, differentiable_once
from sparsernn.core.errors import InputError
from sparsernn.kernels import blocks_triton
from sparsernn.kernels.library import Library
from sparsernn.kernels.sparse_layout import Layout, Table, compiled_for

SHARED_FROM = 1 << 19
"""Multiplications from which work is shared out among threads: one takes 20 us or more."""


class SparseFactor:
    """A sparse matrix S (R, C) with values, for many products to come with the values as they are now.

    Args:
        layout: the places.
        values: (layout.size,), of any floating type.

    Raises:
        InputError: not one value for each place, and in a call for shapes or types that do not fit.

    Example:
        >>> layout = Layout(torch.eye(3, dtype=torch.bool))
        >>> factor = SparseFactor(layout, torch.tensor([1.0, 2.0, 3.0]))
        >>> factor.forward(None, torch.ones(1, 3)), factor.back(None, torch.ones(1, 3))
        (tensor([[1., 2., 3.]]), tensor([[1., 2., 3.]]))
    """

    def __init__(self, layout: Layout, values: Tensor) -> None:
        if values.shape != (layout.size,):
            raise InputError(
                f"{tuple(values.shape)} values met a layout of {layout.size} places; there must be one for each."
            )
        self.layout, self.values = layout, values.detach().contiguous()
        self._library = compiled_for(self.values)
        self._by_triton = blocks_triton.takes(layout, self.values)
        self._turned: Tensor | None = None
        self._dense: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """S, dense."""
        if self._dense is None:
            self._dense = self.layout.put(self.values)
        return self._dense

    def forward(self, base: Tensor | None, x: Tensor) -> Tensor:
        """base + x S^T, (N, R).

        Args:
            base: (N, R), which may be overwritten with the result; a bias (R,), which is left alone; or None.
            x: (N, C).
        """
        rows, columns = self.layout.shape
        base, x, n = self._checked(base, x, columns, rows)
        if self._by_triton:
            return blocks_triton.forward(self.layout, self.values, base, x)
        if self._library is None:
            return _twin(base, x, self.dense.t())
        out = _out(base, x, n, rows)
        if self.layout.blocks:
            self._call(
                self._library, "blocks_forward", self.layout.forth, self.values, x, base, out, n * columns
            )
        else:
            room = (n + 16) * columns + 32 * rows
            self._call(self._library, "singles_forward", self.layout.forth, self.values, x, base, out, room)
        return out

    def back(self, base: Tensor | None, y: Tensor) -> Tensor:
        """base + y S, (N, C); y (N, R), and base as in `forward`, with C for R."""
        rows, columns = self.layout.shape
        base, y, n = self._checked(base, y, rows, columns)
        if self._by_triton:
            return blocks_triton.back(self.layout, self.values, base, y)
        if self._library is None:
            return _twin(base, y, self.dense)
        out = _out(base, y, n, columns)
        if self.layout.blocks:
            self._call(
                self._library, "blocks_back", self.layout.forth, self.values, y, base, out, (n + 16) * columns
            )
        else:
            if self._turned is None:
                self._turned = self.layout.transposed(self.values)
            room = (n + 16) * rows + 32 * columns
            self._call(self._library, "singles_forward", self.layout.back, self._turned, y, base, out, room)
        return out

    def _call(
        self,
        found: Library,
        name: str,
        table: Table,
        values: Tensor,
        a: Tensor,
        base: Tensor | None,
        out: Tensor,
        room: int,
    ) -> None:
        places, n = table.with_values(values), len(a)
        scratch = a.new_empty(room)
        shared = base is not None and base.dim() == 1
        pointers = (
            a.data_ptr(),
            None if base is None else base.data_ptr(),
            out.data_ptr(),
            scratch.data_ptr(),
        )
        threads = _threads(found, n * len(values))
        getattr(found, name)(ctypes.addressof(places), *pointers, n, shared, threads)

    def _checked(
        self, base: Tensor | None, a: Tensor, inner: int, outer: int
    ) -> tuple[Tensor | None, Tensor, int]:
        n = len(a)
        fits = a.shape == (n, inner) and (base is None or base.shape in ((outer,), (n, outer)))
        kinds = {a.dtype, self.values.dtype} | ({base.dtype} if base is not None else set())
        if not fits or len(kinds) > 1:
            raise InputError(
                f"a sparse matrix of {self.values.dtype} met {a.dtype} of shape {tuple(a.shape)} and a base of shape "
                f"{None if base is None else tuple(base.shape)}; they must be of one type, (N, {inner}) and "
                f"(N, {outer}) or ({outer},)."
            )
        return None if base is None else base.detach().contiguous(), a.detach().contiguous(), n


def _out(base: Tensor | None, a: Tensor, n: int, outer: int) -> Tensor:
    return a.new_empty(n, outer) if base is None or base.dim() == 1 else base


def _twin(base: Tensor | None, a: Tensor, matrix: Tensor) -> Tensor:
    if base is None:
        return torch.mm(a, matrix)
    return torch.addmm(base, a, matrix) if base.dim() == 1 else base.addmm_(a, matrix)


def value_gradient(layout: Layout, x: Tensor, y: Tensor) -> Tensor:
    """The values of y^T x at the places of a layout: the gradient of the weights that exist.

    Args:
        layout: of S (R, C).
        x: what S met, (N, C).
        y: the gradient of x S^T, (N, R).

    Returns:
        (layout.size,).

    Raises:
        InputError: shapes or types that do not fit.

    Example:
        >>> value_gradient(Layout(torch.eye(2, dtype=torch.bool)), torch.ones(3, 2), torch.ones(3, 2))
        tensor([3., 3.])
    """
    rows, columns = layout.shape
    n = len(x)
    if x.shape != (n, columns) or y.shape != (n, rows) or x.dtype != y.dtype:
        raise InputError(
            f"{x.dtype} of shape {tuple(x.shape)} and {y.dtype} of shape {tuple(y.shape)} met a layout of shape "
            f"{layout.shape}; they must be of one type, (N, {columns}) and (N, {rows})."
        )
    x, y = x.detach().contiguous(), y.detach().contiguous()
    if blocks_triton.takes(layout, x):
        return blocks_triton.gradient(layout, x, y)
    found = compiled_for(x)
    if found is None:
        return layout.take(torch.mm(y.t(), x))
    if n == 0:
        return x.new_zeros(layout.size)
    out = x.new_empty(layout.size)
    places, threads = layout.forth.with_values(out), _threads(found, n * layout.size)
    room = x.new_empty((n + 16) * (columns if layout.blocks else columns + rows))
    call = found.blocks_gradient if layout.blocks else found.singles_gradient
    pointers = (x.data_ptr(), y.data_ptr(), out.data_ptr(), room.data_ptr())
    call(ctypes.addressof(places), *pointers, n, threads)
    return out


def _threads(found: Library, operations: int) -> int:
    return int(found.threads_between()) if operations >= SHARED_FROM else 1


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, layout: Layout, x: Tensor, values: Tensor) -> Tensor:
        factor = SparseFactor(layout, values)
        ctx.save_for_backward(x, values)
        ctx.factor = factor
        return factor.forward(None, x)

    @staticmethod
    @differentiable_once
    def backward(ctx: Context, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        d_x = ctx.factor.back(None, d_y) if ctx.needs_input_grad[1] else None
        d_values = value_gradient(ctx.factor.layout, x, d_y) if ctx.needs_input_grad[2] else None
        return None, d_x, d_values


def sparse_product(layout: Layout, x: Tensor, values: Tensor) -> Tensor:
    """x S^T, (N, R), with gradients to x (N, C) and to the values (layout.size,) of S.

    Example:
        >>> values = torch.ones(2, requires_grad=True)
        >>> layout = Layout(torch.eye(2, dtype=torch.bool))
        >>> sparse_product(layout, torch.tensor([[3.0, 4.0]]), values).sum().backward()
        >>> values.grad
        tensor([3., 4.])
    """
    made: Tensor = _Product.apply(layout, x, values)  # type: ignore[no-untyped-call]
    return made
