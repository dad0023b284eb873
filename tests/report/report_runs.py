"""Run folders as the training loop writes them, made of invented figures: no training in these tests."""

import json
import math
from pathlib import Path
from typing import Any

import torch
import yaml

from sparsernn.runs.checkpoint import save_checkpoint

SAMPLE = (
    "the company said it will <unk> the sale of its stake in a unit of the bank for N million dollars\n"
    "and the board has agreed to the terms of the offer , which expires in january . "
)
GATES = ("i", "f", "g", "o")
METHODS = {"dense": 0.0, "static": 2.5, "selfish": -3.0}


def recipe(name: str, method: str, epochs: int) -> dict[str, Any]:
    sparsity = {"name": method} if method == "dense" else {"name": method, "density": 0.33}
    return {
        "name": name,
        "about": "A small LSTM language model with <two> layers & a sparse recurrence.",
        "source": "Liu, Mocanu, Pei, Pechenizkiy: Selfish Sparse RNN Training, 2021, arXiv:2101.09048",
        "published": {"valid_perplexity": 73.76, "test_perplexity": 71.65, "note": "Table 1, density 0.33."},
        "seed": 1,
        "epochs": epochs,
        "clip": 0.25,
        "task": {"name": "language_modelling", "corpus": {"name": "ptb"}, "batch_size": 20, "window": 35},
        "model": {"name": "language_model", "embedding_size": 40, "hidden_sizes": [40, 40]},
        "optimizer": {"name": "snt_asgd", "lr": 40, "weight_decay": 1.2e-6, "nonmono": 5},
        "sparsity": sparsity,
    }


def masks_of(density: float, shapes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Masks with the look of trained ones: some inputs keep more connections than others."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, shape in shapes.items():
        liked = torch.rand(1, shape[1], generator=generator) ** 2 * 1.4
        gates = (
            torch.linspace(0.7, 1.3, 4).repeat_interleave(shape[0] // 4)[:, None]
            if "weight_" in name
            else 1.0
        )
        scores = torch.rand(shape, generator=generator) + 0.6 * liked * gates
        cut = scores.flatten().sort().values[round((1 - density) * scores.numel())]
        found[name] = scores >= cut
    return found


def write_run(
    folder: Path,
    method: str = "selfish",
    *,
    epochs: int = 30,
    done: int | None = None,
    hidden: int = 40,
    per_epoch: int = 50,
) -> Path:
    """A run folder after `done` of `epochs` epochs; finished runs have test, sizes and sample events too."""
    folder.mkdir(parents=True, exist_ok=True)
    done = epochs if done is None else done
    shapes = {f"layers.{k}.weight_{w}": (4 * hidden, hidden) for k in range(2) for w in ("ih", "hh")}
    shapes |= {"embedding.weight": (8 * hidden, hidden), "head.weight": (8 * hidden, hidden)}
    masks = {} if method == "dense" else masks_of(0.33, shapes)
    events = [start(folder.name, masks, shapes, epochs, per_epoch)]
    for epoch in range(1, done + 1):
        events += epoch_events(epoch, method, masks, epochs, per_epoch)
    if done == epochs:
        events += ending(method)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({**e, "time": 1.7e9 + k}) + "\n" for k, e in enumerate(events))
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder.name, method, epochs), sort_keys=False))
    (folder / "environment.json").write_text(json.dumps(environment(folder.name)))
    write_checkpoint(folder / "last.safetensors", masks, shapes)
    return folder


def start(
    name: str, masks: dict[str, Any], shapes: dict[str, Any], epochs: int, per_epoch: int
) -> dict[str, Any]:
    numel = {n: a * b for n, (a, b) in shapes.items()}
    active = {n: int(masks[n].sum()) if n in masks else numel[n] for n in shapes}
    tensors = [
        {
            "name": n,
            "shape": list(s),
            "active": active[n],
            "density": active[n] / numel[n],
            "gates": gates_of(n),
        }
        for n, s in shapes.items()
    ]
    masked = [n for n in shapes if n in masks]
    plan = {
        "tensors": tensors,
        "parameters_total": sum(numel.values()) + 500,
        "parameters_active": sum(active.values()) + 500,
        "masked_total": sum(numel[n] for n in masked),
        "masked_active": sum(active[n] for n in masked),
        "tokens": {"train": 929589, "valid": 73760, "test": 82430},
        "vocabulary": 10000,
        "steps": epochs * per_epoch,
        "epochs": epochs,
        "steps_per_epoch": per_epoch,
        "estimated_seconds": 100.0,
    }
    return {"event": "start", "recipe": name, "plan": plan}


def gates_of(name: str) -> list[str]:
    return list(GATES) if "weight_" in name else []


def epoch_events(
    epoch: int, method: str, masks: dict[str, Any], epochs: int, per_epoch: int
) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    fall = math.exp(-epoch / (0.18 * epochs))
    for k in range(10):
        at = (epoch - 1) * per_epoch + (k + 1) * per_epoch // 10
        loss = 4.35 + 2.2 * math.exp(-at / (0.16 * epochs * per_epoch)) + 0.06 * math.sin(7.1 * at)
        lr = 40 * (0.5 if epoch > 0.7 * epochs else 1)
        events.append(
            {
                "event": "step",
                "step": at,
                "epoch": epoch,
                "loss": loss,
                "lr": lr,
                "grad_norm": 0.3 + 0.3 * fall + 0.05 * math.cos(at),
                "tokens_per_second": 9000 + 300 * math.sin(at),
            }
        )
    perplexity = 76 + METHODS.get(method, 0.0) + 420 * fall
    switched = epoch > 0.6 * epochs
    valid = {
        "loss": math.log(perplexity),
        "perplexity": perplexity,
        "bits": math.log2(perplexity),
        "tokens": 73759,
    }
    events.append(
        {
            "event": "epoch",
            "epoch": epoch,
            "step": epoch * per_epoch,
            "train_loss": 4.35 + 2 * fall,
            "valid": valid,
            "averaged": switched,
            "best": True,
            "seconds": 31.5 * epoch,
            "lr": 40.0,
        }
    )
    if epoch == int(0.6 * epochs):
        events.append({"event": "switch", "epoch": epoch, "step": epoch * per_epoch, "to": "averaging"})
    if masks and method != "static":
        events.append(rewire(epoch, masks, epochs, per_epoch))
    return events


def rewire(epoch: int, masks: dict[str, Any], epochs: int, per_epoch: int) -> dict[str, Any]:
    rate = 0.35 * (1 + math.cos(math.pi * epoch / epochs))
    tensors = {}
    for j, (name, mask) in enumerate(masks.items()):
        active, drift = int(mask.sum()), (0.25 + 0.1 * j % 3 / 10) * epoch / epochs
        gates = {
            g: 0.33 + drift * w * 0.4 for g, w in zip(gates_of(name), (-0.6, 0.1, 0.9, -0.4), strict=False)
        }
        explored = 0.33 + (0.55 - 0.03 * j) * (1 - math.exp(-4 * epoch / epochs))
        tensors[name] = {
            "active": active,
            "numel": mask.numel(),
            "density": active / mask.numel() + 0.02 * j * epoch / epochs,
            "pruned": int(rate * active),
            "grown": int(rate * active),
            "returned": int(0.2 * rate * active),
            "exploration": explored,
            "churn": 0.5 * rate,
            "gates": gates,
        }
    return {
        "event": "rewire",
        "update": epoch,
        "step": epoch * per_epoch,
        "epoch": epoch,
        "prune_rate": rate,
        "density": 0.33,
        "exploration": 0.33 + 0.5 * (1 - math.exp(-4 * epoch / epochs)),
        "seconds": 0.31,
        "tensors": tensors,
    }


def ending(method: str) -> list[dict[str, Any]]:
    dense = method == "dense"
    latency = [
        {"runtime": "dense fp32", "batch": 1, "ms_per_token": 1.9},
        {"runtime": "dense fp32", "batch": 16, "ms_per_token": 3.1},
    ]
    if not dense:
        latency += [
            {"runtime": "csr fp32", "batch": 1, "ms_per_token": 0.82},
            {"runtime": "csr fp32", "batch": 16, "ms_per_token": 6.4},
        ]
    value = 73.2 + METHODS.get(method, 0.0)
    return [
        {
            "event": "test",
            "split": "test",
            "loss": math.log(value),
            "perplexity": value,
            "bits": math.log2(value),
            "tokens": 82429,
            "averaged": True,
        },
        {
            "event": "sizes",
            "checkpoint_bytes": 812345,
            "dense_bytes": 410000,
            "packed_bytes": 410000 if dense else 152000,
            "latency": latency,
            "macs_per_token": 33000 if not dense else 99000,
            "macs_per_token_dense": 99000,
        },
        {
            "event": "sample",
            "prompt": "the company",
            "text": SAMPLE,
        },
    ]


def environment(name: str) -> dict[str, Any]:
    return {
        "python": "3.11.7",
        "torch": "2.13.0",
        "sparsernn": "0.1.0",
        "machine": "x86_64",
        "processor": "an example processor",
        "threads": 2,
        "cores": 2,
        "platform": "Linux-6.1",
        "started": "2026-01-02 03:04:05",
        "command": ["sparsernn", "train", "selfish/lstm-ptb-small", "--out", f"runs/{name}"],
        "data": {
            "source": "ptb",
            "sha256": {"train": "ab" * 32, "valid": "cd" * 32},
            "tokens": {"train": 929589},
        },
    }


def write_checkpoint(path: Path, masks: dict[str, torch.Tensor], shapes: dict[str, tuple[int, int]]) -> None:
    """One safetensors file with slash paths and the state tree in its metadata."""
    generator = torch.Generator().manual_seed(2)
    weights = {
        n: torch.randn(s, generator=generator) * 0.05 * masks.get(n, torch.ones(s)) for n, s in shapes.items()
    }
    names = list(weights)
    state = {
        k: {"average": weights[n] * 0.8, "count": masks.get(n, torch.ones(1)).int()}
        for k, n in enumerate(names)
    }
    tree = {
        "model": weights,
        "optimizer": {"state": state, "param_groups": [{"params": list(range(len(names)))}]},
        "sparsifier": {"members": [{"masks": masks}]},
    }
    save_checkpoint(path, tree)
