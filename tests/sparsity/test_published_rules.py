"""`faithful` against a naive loop that follows the published rules of Selfish-RNN, position by position.

What grows is drawn by lot, so the loop takes that from the engine; everything else it works out by itself.
"""

import copy
import math

import pytest
import torch
from torch import nn

from sparsernn.optim.nt_asgd import NTASGD
from sparsernn.sparsity import SPARSIFIERS

STEPS, EPOCHS, SWITCH = 4, 5, 2
LR, DECAY, RATE, LEAST = 2.0, 1e-3, 0.7, 0.005


class NaiveLoop:
    """Dense tensors, masks as numbers, a counter and an average for each weight."""

    def __init__(self, model, masks):
        self.model, self.masks = model, {name: mask.double() for name, mask in masks.items()}
        self.averages, self.counts, self.steps = {}, {}, 0
        self.apply_masks()

    def named(self):
        return dict(self.model.named_parameters())

    @torch.no_grad()
    def apply_masks(self):
        for name, mask in self.masks.items():
            self.named()[name].mul_(mask)

    def begin_averages(self):
        self.averages = {name: torch.zeros_like(p) for name, p in self.named().items()}
        self.counts = {name: torch.zeros_like(p) for name, p in self.named().items()}

    @torch.no_grad()
    def step(self):
        """An absent weight counts 0; iterates 1 and 2 replace its average, the n-th weighs 1 / (n - 1) in it."""
        for name, p in self.named().items():
            p -= LR * (p.grad + DECAY * p)
            if self.averages:
                mask = self.masks.get(name, torch.ones_like(p))
                self.counts[name] = (self.counts[name] + 1) * mask
                share = 1 / (self.counts[name] - 1).clamp(min=1)
                self.averages[name] = (self.averages[name] + share * (p - self.averages[name])) * mask
        self.apply_masks()
        self.steps += 1

    @torch.no_grad()
    def survivors(self):
        """Whatever is larger than the k-th smallest magnitude, k being the absent ones and the share that goes."""
        rate = LEAST + (RATE - LEAST) * (1 + math.cos(math.pi * self.steps / (STEPS * EPOCHS))) / 2
        kept = {}
        for name, mask in self.masks.items():
            magnitudes = self.named()[name].abs()
            active = int(mask.sum())
            k = mask.numel() - active + math.ceil(rate * active)
            kept[name] = magnitudes > magnitudes.flatten().sort().values[k - 1]
        return kept


@pytest.mark.parametrize("switch", [SWITCH, EPOCHS + 1])
def test_a_faithful_run_is_the_published_one(switch, trainer):
    ours = trainer(width=12)
    model = ours.model.double()
    ours.optimizer = NTASGD(
        model.parameters(), lr=LR, weight_decay=DECAY, switch_epoch=switch, per_weight=True
    )
    theirs = trainer(width=12)
    theirs.model = copy.deepcopy(model)
    sparsifier = SPARSIFIERS["selfish"](
        model,
        ours.optimizer,
        density=0.33,
        prune_rate=RATE,
        faithful=True,
        total_steps=STEPS * EPOCHS,
        epochs=EPOCHS,
    )
    naive = NaiveLoop(theirs.model, sparsifier.masks())
    for epoch in range(1, EPOCHS + 1):
        for k in range(epoch * STEPS, (epoch + 1) * STEPS):
            ours.step(k)
            sparsifier.after_step()
            theirs.optimizer.zero_grad()
            nn.Module.zero_grad(theirs.model)
            theirs.gradients(k)
            naive.step()
        compare(naive, ours)
        started = ours.optimizer.trigger(1.0)
        before = {name: mask.clone() for name, mask in sparsifier.masks().items()}
        sparsifier.end_epoch(started)
        assert started == (epoch == switch)
        if started:  # no update then
            naive.begin_averages()
            assert all(torch.equal(mask, before[name]) for name, mask in sparsifier.masks().items())
            continue
        returned = 0
        for name, kept in naive.survivors().items():
            new = sparsifier.masks()[name]
            assert new[kept].all()
            assert new.sum() == before[name].sum()
            returned += int((new & before[name] & ~kept).sum())
            naive.masks[name] = new.double()
        naive.apply_masks()
        assert returned > 0 or epoch > EPOCHS - 2  # late updates prune a handful
        compare(naive, ours)


def compare(naive, ours):
    with ours.optimizer.averaged():
        for name, p in ours.model.named_parameters():
            if naive.averages and naive.counts[name].any():
                torch.testing.assert_close(
                    p, naive.averages[name] * naive.masks.get(name, 1), rtol=1e-9, atol=1e-12
                )
    for name, p in ours.model.named_parameters():
        torch.testing.assert_close(p, naive.named()[name], rtol=1e-9, atol=1e-12)
