"""Numbering a long text: seconds, memory and seconds to open it again, beside the reader of short texts.

    python benchmarks/numbering.py                 100 million words of 300,000 types in a folder that is removed
                                                   afterwards; the reader of short texts gets 2 million
    python benchmarks/numbering.py --words 1000000 --naive 100000

Words are drawn by the law of Zipf and Mandelbrot, the k-th most frequent one as often as 1 / (k + 2.7)^1.2, 24 a
line. 455,097 of them have 48,960 types; WikiText-2's valid and test splits, as many words together, have 18,327, so a
piece of this text is the harder one. Memory is the sum of what all processes of the run hold, looked at twenty times
a second; shared pages count for every process that maps them, as in `ps`. The seconds of the processors tell how much
of the time on the clock was spent waiting for others on a busy machine. Each form runs in a process of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

TYPES, LINE = 300_000, 24
BLOCK = 1_000_000


def main() -> None:
    """Make the text, number it, open it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=int, default=100_000_000)
    parser.add_argument("--naive", type=int, default=2_000_000)
    parser.add_argument("--form", choices=["cache", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.form:
        print(json.dumps(measured(given.form, given.folder)))
        return
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, ", end="")
    print(f"Python {platform.python_version()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as place:
        long, short = Path(place, "long"), Path(place, "short")
        write(long, given.words)
        write(short, given.naive)
        os.environ["SPARSERNN_CACHE"] = str(Path(place, "cache"))
        report("numbered into the cache", given.words, watched("cache", long))
        report("opened again", given.words, watched("cache", long))
        report("read in memory", given.naive, watched("memory", short))


def write(folder: Path, words: int) -> None:
    """A folder of three splits; valid and test have a thousandth of the words each."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    weights = 1 / (np.arange(1, TYPES + 1) + 2.7) ** 1.2
    upto = np.cumsum(weights / weights.sum())
    spelling = np.array([spelt(number) for number in range(TYPES)], dtype=object)
    for split, count in (("train", words), ("valid", words // 1000), ("test", words // 1000)):
        with (folder / f"{split}.txt").open("w") as file:
            for start in range(0, count, BLOCK):
                drawn = np.minimum(
                    np.searchsorted(upto, generator.random(min(BLOCK, count - start))), TYPES - 1
                )
                found = spelling[drawn].tolist()
                file.writelines(" ".join(found[k : k + LINE]) + "\n" for k in range(0, len(found), LINE))


def spelt(number: int) -> str:
    """A word of letters: short ones for frequent words, as languages have it."""
    letters = ""
    while True:
        letters += "etaoin"[number % 6]
        number //= 6
        if not number:
            return letters


def measured(form: str, folder: Path) -> dict[str, float]:
    """Seconds of one opening, by the clock and by the processors, children included."""
    from sparsernn.data import CORPORA, long_text

    long_text.LONG = 0 if form == "cache" else 1 << 60
    began, before = time.perf_counter(), os.times()
    corpus = CORPORA["folder"](data_dir=folder, vocabulary_from="all")
    taken, after = time.perf_counter() - began, os.times()
    return {
        "seconds": taken,
        "processor": sum(after[:4]) - sum(before[:4]),
        "types": len(corpus.vocabulary),
        "tokens": sum(corpus.info["tokens"].values()),
    }


def watched(form: str, folder: Path) -> dict[str, float]:
    """`measured` in a process of its own, and the most memory, in MB, that it and its children held at a time."""
    command = [sys.executable, __file__, "--form", form, "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    most = {"own": 0.0}
    watcher = threading.Thread(target=watch, args=(process, most))
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    return {**json.loads(out), **most}


def watch(process: "subprocess.Popen[str]", most: dict[str, float]) -> None:
    """Until it ends: the sum of the memory of a process and its children."""
    while process.poll() is None:
        most["own"] = max(most["own"], sum(map(resident, [process.pid, *children(process.pid)])))
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Of a process; Linux says so."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def resident(pid: int) -> float:
    """Memory of a process in MB, pages of mapped files included."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def report(what: str, words: int, found: dict[str, float]) -> None:
    """One line."""
    print(
        f"{what:<24} {words / 1e6:8.1f} M words {found['tokens'] / 1e6:8.1f} M tokens {found['types']:9,.0f} types "
        f"{found['seconds']:8.2f} s  {found['processor']:8.2f} s of processors {found['own']:8.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
