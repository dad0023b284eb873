"""Milliseconds to make a recurrent matrix and to send a gradient back through it, map by map, side by side.

    python benchmarks/maps.py [--sizes 128 512 1024] [--threads 1] [--rounds 5] [--all]

The yardstick is the exponential as everybody writes it: torch.linalg.matrix_exp of the same skew matrix, with
autograd. Above 512 it is left out unless --all asks for it. All maps of a size take turns in each round; the table
shows the least of each, because whatever else the machine does only adds, and on one thread the clock counts
processor time only. Skew matrices have entries N(0, 1/n), hence angles up to 2: about what training leads to from
small angles. The error is the largest entry of |Q'Q - I|, of P where V is not orthogonal itself.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sparsernn.nn.maps import Normal, Orthogonal, RecurrentMap, Rotations
from sparsernn.nn.maps.skew import skew_matrix


class Plain(Orthogonal):
    """The exponential by torch, differentiated by autograd."""

    def _matrix(self) -> Tensor:
        return torch.linalg.matrix_exp(skew_matrix(self.skew, self.places, self.hidden_size))


PLAIN = "matrix_exp and autograd"
CONTESTANTS: dict[str, Callable[[int], RecurrentMap]] = {
    PLAIN: Plain,
    "orthogonal, exp": Orthogonal,
    "orthogonal, exp, rebased every step": lambda n: Orthogonal(n, rebase_every=1),
    "orthogonal, cayley": lambda n: Orthogonal(n, map="cayley", init="cayley"),
    "normal": Normal,
    "rotations, 2 layers": Rotations,
    "rotations, fft": lambda n: Rotations(n, style="fft"),
}


def built(name: str, size: int) -> RecurrentMap:
    """A map away from its special beginning."""
    torch.manual_seed(0)
    map = CONTESTANTS[name](size)
    if hasattr(map, "skew"):
        torch.nn.init.normal_(map.skew, std=size**-0.5)
    if hasattr(map, "lower"):
        torch.nn.init.normal_(map.lower, std=0.1 * size**-0.5)
    return map


def timed(map: RecurrentMap, gradient: Tensor, clock: Callable[[], float]) -> tuple[float, float]:
    """Milliseconds of forward, and of forward and backward."""
    started = clock()
    v = map()
    between = clock()
    v.backward(gradient)
    done = clock()
    return 1e3 * (between - started), 1e3 * (done - started)


@torch.no_grad()
def step(map: RecurrentMap) -> None:
    """A small gradient step, not timed: without it nothing would be left to a change of base."""
    for p in map.parameters():
        assert p.grad is not None
        p.sub_(p.grad, alpha=1e-3)
        p.grad = None


def measure(size: int, names: list[str], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Least milliseconds of forward and of both, and the error, of every map; a round of warm-up."""
    maps = {name: built(name, size) for name in names}
    errors = {name: map.manifold_error() for name, map in maps.items()}
    gradient = torch.randn(size, size) / size
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, map in maps.items():
            taken = timed(map, gradient, clock)
            if number:
                times[name].append(taken)
            step(map)
        print(f"{size}: round {number + 1} of {rounds + 1}", file=sys.stderr)
    return {
        name: [*(min(column) for column in zip(*times[name], strict=True)), errors[name]] for name in names
    }


def show(size: int, found: dict[str, list[float]]) -> None:
    """A size's table."""
    base = found[PLAIN][1] if PLAIN in found else None
    print(f"\n{f'n = {size}':38}{'forward':>10}{'and backward':>14}{'faster':>9}{'error':>10}")
    for name, (forward, both, error) in found.items():
        ratio = f"{base / both:.1f}x" if base else "-"
        print(f"{name:38}{forward:10.2f}{both:14.2f}{ratio:>9}{error:10.0e}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="the yardstick at every size")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    from sparsernn.runs.assembly import processor

    print(f"float32, {options.threads} thread(s), milliseconds, the least of {options.rounds} rounds;")
    print(f"{processor()}, torch {torch.__version__}, Python {platform.python_version()}")
    for size in options.sizes:
        names = [name for name in CONTESTANTS if name != PLAIN or size <= 512 or options.all]
        show(size, measure(size, names, options.rounds, clock))


if __name__ == "__main__":
    main()
