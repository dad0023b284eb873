"""Every use of randomness has a stream of its own: nothing that is drawn from one seed knows of anything else."""

import ast
import hashlib
import random
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsernn
from sparsernn.core import streams
from sparsernn.gradients import SyntheticGradient
from sparsernn.models import LanguageModel
from sparsernn.runs.assembly import assemble
from sparsernn.sparsity import random_masks, sparsify

ROOT = Path(sparsernn.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
SEEDS = (0, 1, 2, 3, 1111)
COUNT = 4096
SIGMAS = 5
"""Of n pairs of independent numbers the correlation has the standard deviation 1 / sqrt(n)."""

MAY_BEGIN = {
    "core/streams.py": "is where streams begin",
    "deploy/onnx_tasks.py": "imports nothing of this library, to be copied",
    "data/digit_images.py": "the order of the pixels and of the images is published",
    "data/vocabulary.py": "one shuffle for all runs, by Python's generator",
    "tasks/tagging.py": "takes its seed from `draws`, as it always did: a resumed run needs the order it began with",
}
MAKERS = {
    "Generator",
    "manual_seed",
    "seed",
    "Random",
    "RandomState",
    "default_rng",
    "SeedSequence",
    "SystemRandom",
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file with the last word of the name that is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rsplit(".", 1)[-1], node


@cache
def uses(*starters: str) -> list[str]:
    """The names of all streams that are begun anywhere, as they stand in the code."""
    found = {"dropout"}
    for path in SOURCES:
        for name, call in calls(path):
            if name in starters and call.args and isinstance(call.args[0], ast.Constant):
                found.add(str(call.args[0].value))
    return sorted(found)


def correlations(*drawings: torch.Tensor) -> torch.Tensor:
    """The correlations of drawings number by number, in standard deviations; longer ones are cut."""
    count = min(drawn.numel() for drawn in drawings)
    rows = torch.stack([drawn.detach().double().flatten()[:count] for drawn in drawings])
    return torch.corrcoef(rows).abs().reshape(len(rows), len(rows)) * count**0.5


def related(first: torch.Tensor, second: torch.Tensor) -> float:
    """The correlation of two."""
    return float(correlations(first, second)[0, 1])


def assert_unrelated(drawn: dict[str, torch.Tensor]) -> None:
    """No pair of the drawings knows of the other."""
    by_size: dict[int, dict[str, torch.Tensor]] = {}
    for name, numbers in drawn.items():
        by_size.setdefault(numbers.numel(), {})[name] = numbers
    for same in by_size.values():
        names, found = list(same), correlations(*same.values())
        for i, j in combinations(range(len(names)), 2):
            assert found[i, j] < SIGMAS, f"{names[i]} and {names[j]} are drawn from the same numbers"
    for (_, one), (_, other) in combinations(by_size.items(), 2):
        for (a, first), (b, second) in product(one.items(), other.items()):
            assert related(first, second) < SIGMAS, f"{a} and {b} are drawn from the same numbers"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_streams_begin_in_one_place(path):
    begun = {name for name, _ in calls(path)} & MAKERS
    assert not begun or path.relative_to(ROOT).as_posix() in MAY_BEGIN, begun


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_uses_of_a_seed_draw_the_same_numbers(seed):
    names = uses("stream")
    assert {"masks", "growth", "synthesizer", "generation", "dropout"} <= set(names)
    drawn = {name: torch.rand(COUNT, generator=streams.stream(name, seed)) for name in names}
    drawn["weights"] = torch.rand(COUNT, generator=torch.Generator().manual_seed(seed))
    for name in uses("draws"):
        numbers = streams.draws(name, seed, 0)
        drawn[name + " (Python)"] = torch.tensor([numbers.random() for _ in range(COUNT)])
    assert_unrelated(drawn)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init": "uniform_bernoulli"},
        {"init": "erdos_renyi"},
        {"exact": False},
        {"faithful": True},
        {"regrow_init": "small_random", "init": "uniform_bernoulli"},
    ],
    ids=str,
)
def test_masks_and_what_grows_know_nothing_of_the_weights(settings):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Embedding(64, 64), nn.LSTM(64, 64, 2))
    weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.dim() == 2}
    sparsifier = sparsify(model, density=0.33, seed=3, total_steps=1000, **settings)
    masks = {n: mask.clone() for n, mask in sparsifier.masks().items()}
    sparsifier.update()
    grown = {n: mask & ~masks[n] for n, mask in sparsifier.masks().items()}
    for name, weight in weights.items():
        assert related(masks[name], weight) < SIGMAS
        assert related(grown[name][~masks[name]], weight[~masks[name]]) < SIGMAS
        assert related(random_masks(masks, seed=3)[name], weight) < SIGMAS
        assert related(random_masks(masks, seed=3)[name], masks[name]) < SIGMAS
    if settings.get("regrow_init") == "small_random":
        began = torch.cat([dict(model.named_parameters())[n][grown[n]] for n in weights])
        assert related(began, torch.randn(len(began), generator=torch.Generator().manual_seed(3))) < SIGMAS


def test_nothing_of_a_run_knows_of_anything_else(tiny_recipe):
    """Weights, masks, synthesizer and dropouts of one seed, as a run draws them."""
    recipe = tiny_recipe(
        model={"name": "language_model", "embedding_size": 40, "hidden_sizes": [40]},
        sparsity={"name": "selfish", "density": 0.5, "init": "uniform_bernoulli"},
    )
    dense = assemble(tiny_recipe(model=recipe.model, sparsity="dense"))
    run = assemble(recipe)
    drawn = {f"weight {n}": p for n, p in dense.model.named_parameters() if p.dim() == 2}
    drawn |= {f"mask {n}": mask for n, mask in run.sparsifier.masks().items()}
    boundary = SyntheticGradient(
        dense.model, seed=recipe.seed, epochs=1, synthesizer={"name": "mlp", "hidden_sizes": [40]}
    )
    # some layers of a synthesizer begin at 0
    drawn |= {
        f"synthesizer {n}": p for n, p in boundary.synthesizer.named_parameters() if p.dim() == 2 and p.any()
    }
    assert any(name.startswith("synthesizer") for name in drawn)
    assemble(recipe)  # leaves torch's generator where dropouts begin
    drawn["dropout"] = nn.functional.dropout(torch.ones(40, 40), 0.5)
    assert_unrelated(drawn)


def test_a_run_begins_like_a_model_built_by_hand(tiny_recipe):
    recipe = tiny_recipe(
        model={"name": "language_model", "embedding_size": 8, "hidden_sizes": [8]}, sparsity="dense"
    )
    run = assemble(recipe)
    torch.manual_seed(recipe.seed)
    by_hand = LanguageModel(**run.task.sizes, embedding_size=8, hidden_sizes=[8])
    for (name, ours), theirs in zip(run.model.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_dropouts_begin_alike_whatever_the_size_of_the_network(tiny_recipe):
    begun = []
    for width in (8, 16):
        assemble(tiny_recipe(model={"name": "language_model", "embedding_size": 8, "hidden_sizes": [width]}))
        begun.append(torch.rand(5))
    assert torch.equal(*begun)


def test_seeds_beyond_32_bits_are_seeds_of_their_own():
    """torch's own generator for the CPU looks at 32 bits of a seed; the hash looks at all."""
    small, large = (torch.rand(COUNT, generator=streams.stream("masks", seed)) for seed in (1, 2**32 + 1))
    assert related(small, large) < SIGMAS


def test_a_resumed_run_finds_the_streams_that_it_began_with():
    """Windows, sentences, questions and made-up tasks draw by epoch and step, not from a saved state."""
    assert streams.draws("windows", 7, 2).random() == random.Random("windows 7 2").random()
    digest = hashlib.sha256(b"copying 3 0 5").digest()
    assert streams.stream_seed("copying", 3, 0, 5) == int.from_bytes(digest[:7], "big")
