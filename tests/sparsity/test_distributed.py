"""`sparsify` in a user's own loop over two processes: masks and weights of the ranks stay equal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

import sparsernn
from sparsernn import sparsify
from sparsernn.core.errors import InputError

pytestmark = pytest.mark.skipif(
    not distributed.is_available(), reason="torch was built without torch.distributed"
)

LOOP = """
import gc, sys
import torch
from torch import distributed, nn
from sparsernn import sparsify
from sparsernn.core.errors import InputError
from sparsernn.nn import LSTM

rank, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
for method in ("selfish", "rigl", "snfs", "set", "dsr"):
    torch.manual_seed(0)
    layer = nn.LSTM(6, 16)
    model = nn.parallel.DistributedDataParallel(layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    often = {"every": 2, "unit": "step"}
    sparsifier = sparsify(layer, optimizer, method=method, density=0.3, total_steps=40, update=often)
    data = torch.Generator().manual_seed(rank)  # every rank has data of its own
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 6, generator=data))[0].square().mean().backward()
        optimizer.step()
    torch.save({"masks": sparsifier.masks(), "weights": layer.state_dict(), "reports": len(sparsifier.reports)},
               f"{out}/{method}-{rank}.pt")
    del model, optimizer, sparsifier, layer
    gc.collect()
layer = LSTM(6, 16, product="sparse")
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for attach in (True, False):
    settings = {"density": 0.3, "total_steps": 40, "update": {"every": 1, "unit": "step"}}
    growing = sparsify(layer, optimizer, method="rigl", attach=attach, **settings)
    layer(torch.randn(5, 3, 6))[0].sum().backward()
    try:
        optimizer.step()
        growing.step()
    except InputError as error:
        told = [str(error)]
    torch.save({"told": told, "updates": growing.update_count}, f"{out}/refused-{attach}-{rank}.pt")
    growing.detach()
distributed.barrier()
distributed.destroy_process_group()
"""


def test_parameters_in_pieces_are_refused():
    layer = torch.nn.LSTM(6, 16)
    layer.weight_hh_l0.device_mesh = "cpu"  # as those of torch.distributed.fsdp.fully_shard have one
    for method in ("selfish", "iss"):
        with pytest.raises(InputError, match=r"'weight_hh_l0' is divided among processes .*FSDP2"):
            sparsify(layer, method=method)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Where two processes have left what came of their loop."""
    tmp_path = tmp_path_factory.mktemp("loop")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(sparsernn.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    script = tmp_path / "loop.py"
    script.write_text(LOOP, encoding="utf-8")
    command = [sys.executable, str(script)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting"), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    complaints = [process.communicate(timeout=240)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], complaints
    return tmp_path


def test_two_ranks_have_the_same_masks_and_weights(done):
    for method in ("selfish", "rigl", "snfs", "set", "dsr"):
        one, other = (torch.load(done / f"{method}-{rank}.pt", weights_only=True) for rank in range(2))
        assert one["reports"] == other["reports"] == 3
        for part in ("masks", "weights"):
            assert all(torch.equal(one[part][name], other[part][name]) for name in one[part]), (method, part)
        assert not any(one["weights"][name][~mask].any() for name, mask in one["masks"].items())


@pytest.mark.parametrize("attach", [True, False])
def test_gradients_that_nobody_averages_are_refused(done, attach):
    """Before a mask moves by them."""
    for rank in range(2):
        found = torch.load(done / f"refused-{attach}-{rank}.pt", weights_only=True)
        assert "2 processes train, and growth looks at gradients" in found["told"][0]
        assert found["updates"] == 0
