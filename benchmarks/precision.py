"""Tokens per second of training in float32 and in bfloat16, in turns.

python benchmarks/precision.py                                  selfish/lstm-ptb-small (about 2 minutes)
python benchmarks/precision.py --recipe selfish/rhn-ptb --device cuda
"""

import argparse
import platform
import statistics

import torch
from recipe_steps import seconds_per_step

from sparsernn.runs.assembly import processor


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="selfish/lstm-ptb-small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    speeds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(given.rounds):
        for name, found in speeds.items():
            settings = [f"precision={name}", f"device={given.device}", "log_every=4", *given.overrides]
            seconds, run = seconds_per_step(given.recipe, settings, given.steps, given.words)
            found.append(run.task.batch_size * run.task.window / seconds)
    own = "" if has_bfloat16(run.device) else "no arithmetic in bfloat16: it is emulated here, "
    where = processor() if run.device.type == "cpu" else torch.cuda.get_device_name(run.device)
    print(
        f"{given.recipe}, V {given.words:,}, {where} ({own}{torch.get_num_threads()} threads), "
        f"torch {torch.__version__}, Python {platform.python_version()}; "
        f"median of {given.rounds}, slowest and fastest"
    )
    for name, found in speeds.items():
        print(
            f"{name:<10}{statistics.median(found):>10,.0f} tokens/s   ({min(found):,.0f} to {max(found):,.0f})"
        )


if __name__ == "__main__":
    main()
