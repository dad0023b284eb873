"""The real Schur form of any recurrent matrix, which neither torch nor numpy has.

source: J. G. F. Francis, "The QR Transformation", parts 1 and 2, 1961; as told by Gene Golub and Charles Van Loan,
"Matrix Computations", 4th edition, 2013, sections 7.4 and 7.5.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsernn.core.errors import InputError

Array = npt.NDArray[np.float64]
_EPS = float(np.finfo(np.float64).eps)
_NEGLIGIBLE = 1e-12  # of the norm: what eigenvectors may leave below the blocks
_PATIENCE = 60  # sweeps per eigenvalue; two or three are usual


def schur_form(v: Tensor) -> tuple[Tensor, Tensor]:
    """P and Theta with V = P Theta P', P orthogonal, Theta lower block-triangular: the convention of nnRNN's map.

    Blocks on the diagonal are of two rows for a conjugate pair, with equal diagonal entries, and of one row for a
    real eigenvalue. The order of eigenvalues is whatever comes out. For a matrix far from normal the form says as
    much about rounding as about the matrix; where the map itself has a Schur form, ask the map.

    Where the eigenvectors are good enough, their orthonormal basis is the answer; where they are not, as in a delay
    line, a loop in Python over H^2 reflections finds it, which takes its time from some hundred units on.

    Args:
        v: (H, H), real and finite.

    Returns:
        P and Theta (H, H), float64.

    Raises:
        InputError: a matrix that is not square, or not finite.

    Example:
        >>> p, theta = schur_form(torch.tensor([[0.0, 1.0], [0.0, 0.5]]))
        >>> bool(theta[0, 1] == 0), sorted(round(float(x), 6) for x in theta.diagonal())
        (True, [0.0, 0.5])
    """
    if v.ndim != 2 or v.shape[0] != v.shape[1] or not v.isfinite().all():
        raise InputError(f"a matrix is {tuple(v.shape)}; it must be square and finite.")
    h = v.detach().mT.to("cpu", torch.float64, copy=True).numpy()  # an upper form of V' is a lower one of V
    found = _by_eigenvectors(h)
    if found is None:
        found = h, np.eye(len(h))
        _to_hessenberg(*found)
        _to_schur(*found)
    h, q = found
    return torch.from_numpy(q), torch.from_numpy(h.T.copy())


def _by_eigenvectors(h: Array) -> tuple[Array, Array] | None:
    """Form and basis from the eigenvectors in turn; None where what should vanish below the blocks does not."""
    values, vectors = np.linalg.eig(h)
    second = np.append(
        False, values[1:].imag < 0
    )  # of a conjugate pair, the one with the positive part is first
    q = np.linalg.qr(np.where(second, -vectors.imag, vectors.real)).Q
    form = q.T @ h @ q
    blocks = np.triu(np.ones(h.shape, dtype=bool))
    pairs = np.flatnonzero(second) - 1
    blocks[pairs + 1, pairs] = True
    if not np.linalg.norm(form[~blocks]) <= _NEGLIGIBLE * np.linalg.norm(h):
        return None
    form[~blocks] = 0
    for at in pairs:
        _settle_pair(form, q, int(at))
    return form, q


def _reflector(x: Array) -> Array | None:
    """The unit normal of the mirror that turns x to its first axis; None where there is nothing to turn."""
    normal = x.copy()
    normal[0] += np.copysign(np.sqrt(x @ x), x[0])
    size = np.sqrt(normal @ normal)
    return normal / size if size else None


def _mirror(h: Array, q: Array, x: Array, at: int, left: int, bottom: int) -> None:
    """Reflect rows and columns from `at` on, as many as x has; left and bottom bound what is not zero."""
    normal = _reflector(x)
    if normal is None:
        return
    own = slice(at, at + len(x))
    for view in (h[own, left:].T, h[:bottom, own], q[:, own]):
        view -= np.multiply.outer(2 * (view @ normal), normal)


def _to_hessenberg(h: Array, q: Array) -> None:
    for k in range(len(h) - 2):
        _mirror(h, q, h[k + 1 :, k].copy(), k + 1, k, len(h))
        h[k + 2 :, k] = 0


def _to_schur(h: Array, q: Array) -> None:
    """Deflate from the bottom: blocks of one or two rows leave, and the rest is swept until one does."""
    end, sweeps = len(h), 0
    while end > 1:
        start = _split(h, end)
        if end - start > 2:
            sweeps += 1
            if sweeps > _PATIENCE * len(h):
                raise InputError("the eigenvalues of a matrix do not settle; its Schur form cannot be had.")
            _sweep(h, q, start, end, exceptional=sweeps % 11 == 10)
        else:
            if end - start == 2:
                _settle_pair(h, q, start)
            end = start


def _split(h: Array, end: int) -> int:
    """Where the last unreduced block of h[:end, :end] begins; what is negligible below the diagonal becomes 0."""
    diagonal = np.abs(np.diagonal(h)[:end])
    below = np.diagonal(h, -1)[: end - 1]
    scale = diagonal[1:] + diagonal[:-1]
    small = np.flatnonzero(np.abs(below) <= _EPS * np.where(scale > 0, scale, np.abs(h[:end, :end]).max()))
    h[small + 1, small] = 0
    return int(small[-1]) + 1 if len(small) else 0


def _sweep(h: Array, q: Array, start: int, end: int, exceptional: bool) -> None:
    """One implicit step with two shifts on the block start:end, of three rows at least."""
    (a, b), (c, d) = h[end - 2 : end, end - 2 : end]
    total, product = a + d, a * d - b * c
    if exceptional:  # shifts that break a cycle
        size = abs(h[end - 1, end - 2]) + abs(h[end - 2, end - 3])
        total, product = 1.5 * size, size**2
    i = start
    x = np.array(
        [
            h[i, i] * (h[i, i] - total) + h[i, i + 1] * h[i + 1, i] + product,
            h[i + 1, i] * (h[i, i] + h[i + 1, i + 1] - total),
            h[i + 1, i] * h[i + 2, i + 1],
        ]
    )
    for k in range(start, end - 1):
        left = max(k - 1, start)
        _mirror(h, q, x, k, left, min(k + 4, end))
        if k > start:
            h[k + 1 : k + len(x), k - 1] = 0
        x = h[k + 1 : min(k + 4, end), k].copy()


def _settle_pair(h: Array, q: Array, at: int) -> None:
    """Turn a block of two: triangular for real eigenvalues, equal diagonal entries for a pair."""
    (a, b), (c, d) = h[at : at + 2, at : at + 2]
    half = (a - d) / 2
    inside = half**2 + b * c
    if inside >= 0:
        root = half + np.copysign(np.sqrt(inside), half)
        first = np.array([root, c]) if root or c else np.array([1.0, 0.0])  # (A - (d + root)) first = 0
        cos, sin = first / np.hypot(*first)
    else:
        angle = np.arctan2(d - a, b + c) / 2
        cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    own = slice(at, at + 2)
    h[own, at:] = turn.T @ h[own, at:]
    h[: at + 2, own] = h[: at + 2, own] @ turn
    q[:, own] = q[:, own] @ turn
    if inside >= 0:
        h[at + 1, at] = 0
