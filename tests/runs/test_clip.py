"""Over which weights the norm of a clip is taken."""

import pytest
import torch
from torch import nn

from sparsernn.core.errors import InputError
from sparsernn.runs.assembly import create
from sparsernn.runs.clipping import clip
from sparsernn.runs.loop import train


def made():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2))]
    for p in parameters[:2]:
        p.grad = torch.randn_like(p)
    return parameters, torch.rand(3, 4) < 0.5


@pytest.mark.parametrize("limit", [0.1, 100.0, None])
def test_with_masks_it_is_torchs_clip_of_what_they_leave(limit):
    parameters, mask = made()
    left = [p.grad.clone() for p in parameters[:2]]
    left[0] *= mask
    twins = [nn.Parameter(torch.zeros_like(g)) for g in left]
    for twin, gradient in zip(twins, left, strict=True):
        twin.grad = gradient.clone()
    expected = torch.nn.utils.clip_grad_norm_(twins, limit or float("inf"))
    norm = clip(parameters, limit, {id(parameters[0]): mask})
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(parameters[0].grad * mask, twins[0].grad)
    torch.testing.assert_close(parameters[1].grad, twins[1].grad)
    assert parameters[0].grad[~mask].all()  # growth may look at them


def test_a_run_clips_over_what_its_recipe_says(tiny_recipe, tmp_path):
    norms = {}
    for over in ("all", "existing"):
        settings = {"sparsity": {"name": "static", "density": 0.3}, "clip": 0.05, "clip_over": over}
        run = create(tiny_recipe(**settings, epochs=1), tmp_path / over)
        seen, step, masks = [], run.optimizer.step, run.sparsifier.masks()
        named = dict(run.model.named_parameters())

        def stepped(seen=seen, step=step, masks=masks, named=named):
            parts = [p.grad * masks.get(n, True) for n, p in named.items()]
            seen.append(
                [
                    torch.cat([g.flatten() for g in gs]).norm().item()
                    for gs in (parts, [p.grad for p in named.values()])
                ]
            )
            return step()

        run.optimizer.step = stepped
        train(run)
        norms[over] = torch.tensor(seen)
    assert torch.allclose(norms["existing"][:, 0], torch.tensor(0.05), atol=1e-5)
    assert torch.allclose(norms["all"][:, 1], torch.tensor(0.05), atol=1e-5)
    assert (norms["all"][:, 0] < 0.049).all()


def test_another_word_is_refused(tiny_recipe):
    with pytest.raises(InputError, match="clip_over is 'some'; it must be all or existing"):
        tiny_recipe(clip_over="some")
