"""Layers that are sparse by construction against dense ones, side by side in one run.

    python benchmarks/blocks.py                        the wide treebank model: training and inference with windows
                                                       of 70, batch 20; evaluation, batch 10; single words
    python benchmarks/blocks.py --window 35 --batch 4  other sizes

The model is the 3-layer LSTM of 1725 units whose layers have as many parameters as those of the 1150-unit one
(Demeester et al., 2018, arXiv:1808.08720), and its embedding has 10,000 words in 10 strips at density 0.5. Each is
held against the dense form of the same width and the dense form of the same number of parameters, both on torch's
kernels, and against the latter run as a `BlockLSTM` of one block, so by the same kernels as the block layer: what is
left there is due to the blocks. The forms take turns call by call, so that a drift of the machine's speed meets all
alike. Training is a forward and a backward pass, with gradients for weights and inputs; inference is a forward pass
without them.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sparsernn.nn.drive.single_step import no_repacking

WORDS, FRACTION = 10_000, 0.66666
Call = Callable[[], Tensor]
Case = dict[str, tuple[nn.Module, Call]]


def layers(inputs: int, hidden: int, reduce: tuple[float, float], window: int, batch: int) -> Case:
    """One layer in its four forms."""
    from sparsernn.nn import LSTM, BlockLSTM

    small = round(inputs * reduce[0]), round(hidden * reduce[1])
    made = {
        "blocks": BlockLSTM(inputs, hidden, reduce=reduce),
        "dense, same width": LSTM(inputs, hidden),
        "dense, same parameters": LSTM(*small),
        "dense, same parameters, same kernel": BlockLSTM(*small, blocks=1),
    }
    return {name: (layer, reading(layer, window, batch)) for name, layer in made.items()}


def reading(layer: nn.Module, window: int, batch: int) -> Call:
    """A call that reads a window."""
    x = torch.randn(window, batch, layer.input_size, requires_grad=True)
    return lambda: layer(x)[0]


def lookups(width: int, window: int, batch: int) -> Case:
    """The embedding in its three forms."""
    from sparsernn.nn import BlockEmbedding, Embedding

    words = torch.randint(WORDS, (window, batch))
    made = {
        "blocks": BlockEmbedding(WORDS, width),
        "dense, same width": Embedding(WORDS, width),
        "dense, same parameters": Embedding(WORDS, width // 2),
    }
    return {name: (table, lambda table=table: table(words)) for name, table in made.items()}


def decoding(width: int, window: int, batch: int, likelihood: bool) -> Case:
    """Heads that decode with these embeddings: the scores of all words, or the likelihood of one."""
    from sparsernn.nn import BlockHead, LinearHead

    target, cases = torch.randint(WORDS, (window, batch)), {}
    for name, (table, _) in lookups(width, window, batch).items():
        size = width // 2 if "parameters" in name else width
        head = BlockHead(width, table) if name == "blocks" else LinearHead(WORDS, size, tied=table.weight)
        y = torch.randn(window, batch, size, requires_grad=True)
        call = (lambda h=head, y=y: h.nll(y, target)) if likelihood else (lambda h=head, y=y: h.logits(y))
        cases[name] = (head, call)
    return cases


def inference(case: tuple[nn.Module, Call]) -> None:
    """A forward pass."""
    module, call = case
    module.eval()
    with torch.no_grad():
        call()


def training(case: tuple[nn.Module, Call]) -> None:
    """A forward and a backward pass."""
    module, call = case
    module.train().zero_grad()
    call().sum().backward()


def measure(case: Case, action: Callable[[tuple[nn.Module, Call]], None], rounds: int) -> dict[str, float]:
    """Median milliseconds of each form, taken in turns; two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in case}
    for number in range(rounds + 2):
        for name, form in case.items():
            started = time.perf_counter()
            action(form)
            if number >= 2:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def show(what: str, times: dict[str, float]) -> None:
    """One line: milliseconds of the blocks, and how many times as long the dense forms take."""
    own, *others = times.values()
    print(f"{what:36}{own:9.2f}" + "".join(f"{other / own:17.2f}" for other in others))


def cases(window: int, batch: int) -> dict[str, tuple[Callable[[], Case], bool]]:
    """What is measured, and whether training is."""
    shape = window, batch
    made: dict[str, tuple[Callable[[], Case], bool]] = {
        f"LSTM {i} -> {h}": (lambda i=i, h=h, r=r: layers(i, h, r, *shape), True)
        for i, h, r in [
            (400, 1725, (1.0, FRACTION)),
            (1725, 1725, (FRACTION, FRACTION)),
            (1725, 400, (FRACTION, 1.0)),
        ]
    }
    made["embedding 10000 x 400"] = (lambda: lookups(400, *shape), True)
    made["its scores of all words"] = (lambda: decoding(400, *shape, likelihood=False), False)
    made["its likelihood of a word"] = (lambda: decoding(400, *shape, likelihood=True), True)
    return made


def run(
    window: int, batch: int, rounds: int, actions: Sequence[Callable[[tuple[nn.Module, Call]], None]]
) -> None:
    """One table; the three layers are added up below it."""
    print(f"\nwindow {window}, batch {batch}; medians of {rounds}")
    titles = ("ms", "same width", "same parameters", "and same kernel")
    print(f"{'':36}{titles[0]:>9}" + "".join(f"{title:>17}" for title in titles[1:]) + "   (times as long)")
    sums: dict[str, dict[str, float]] = {}
    for name, (build, learns) in cases(window, batch).items():
        case = build()
        for action in actions if learns else [a for a in actions if a is inference]:
            with no_repacking() if window == 1 and action is inference else nullcontext():
                times = measure(case, action, rounds)
            show(f"{name}, {action.__name__}", times)
            if name.startswith("LSTM"):
                total = sums.setdefault(action.__name__, dict.fromkeys(times, 0.0))
                total.update({form: total[form] + taken for form, taken in times.items()})
    for what, total in sums.items():
        show(f"the three LSTMs, {what}", total)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--window", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="twenty times as many for single words")
    options = parser.parse_args()
    from sparsernn.kernels import describe
    from sparsernn.runs.assembly import processor
    from sparsernn.runs.malloc import keep_buffers

    keep_buffers()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads; {processor()}; {describe()};")
    print(f"torch {torch.__version__}, Python {platform.python_version()}")
    if options.window or options.batch:
        run(options.window or 70, options.batch or 20, options.rounds, (inference, training))
        return
    run(70, 20, options.rounds, (inference, training))
    run(70, 10, options.rounds, (inference,))
    run(1, 1, 20 * options.rounds, (inference,))


if __name__ == "__main__":
    main()
