"""Downloading the benchmarks into a cache, only when asked, and checked against known hashes."""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.forms import check_known
from sparsernn.data.byte_bar import ByteBar
from sparsernn.data.text_files import GZIP_MAGIC, read_bytes

TIMEOUT = 30  # seconds without an answer after which a server counts as out of reach


@dataclass(frozen=True)
class Remote:
    """A file to be had.

    Attributes:
        file: its name in the cache.
        digest: "algorithm:hexadecimal", of the content where the file is packed with gzip.
        urls: places to try, in order; `archive.zip#member` is a file inside a zip archive.
    """

    file: str
    digest: str
    urls: tuple[str, ...]


def _penn(split: str, digest: str) -> Remote:
    places = ("wojzaremba", "tomsercu")
    urls = (f"https://raw.githubusercontent.com/{p}/lstm/master/data/ptb.{split}.txt" for p in places)
    return Remote(f"{split}.txt", digest, tuple(urls))


def _wikitext(split: str, digest: str) -> Remote:
    examples = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2"
    archive = "https://wikitext.smerity.com/wikitext-2-v1.zip"
    urls = (f"{examples}/{split}.txt", f"{archive}#wikitext-2/wiki.{split}.tokens")
    return Remote(f"{split}.txt", digest, urls)


def _mnist(kind: str, digest: str) -> Remote:
    places = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )
    return Remote(f"{kind}-ubyte.gz", digest, tuple(f"{place}/{kind}-ubyte.gz" for place in places))


# Mikolov's preparation of the Penn Treebank: the hashes of the files with 929,589 / 73,760 / 82,430 tokens;
# their md5 sums are those that torchtext published. WikiText-2: the sha1 sums that GluonNLP published for
# wiki.*.tokens. MNIST: the md5 sums of the four files unpacked, which many libraries have.
DATASETS: dict[str, tuple[Remote, ...]] = {
    "ptb": (
        _penn("train", "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        _penn("valid", "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        _penn("test", "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    ),
    "wikitext-2": (
        _wikitext("train", "sha1:863f29c46ef9d167fff4940ec821195882fe29d1"),
        _wikitext("valid", "sha1:0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422"),
        _wikitext("test", "sha1:c7b8ce0aa086fb34dab808c5c49224211eb2b172"),
    ),
    "mnist": (
        _mnist("train-images-idx3", "md5:6bbc9ace898e44ae57da46a324031adb"),
        _mnist("train-labels-idx1", "md5:a25bea736e30d166cdddb491f175f624"),
        _mnist("t10k-images-idx3", "md5:2646ac647ad5339dbf082846283269ea"),
        _mnist("t10k-labels-idx1", "md5:27ae3e4e09519cfbb04c329615203637"),
    ),
}


def cache_folder() -> Path:
    """Where downloads are kept: $SPARSERNN_CACHE, or the place that the operating system has for caches."""
    if given := os.environ.get("SPARSERNN_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("sparsernn")


def matches(data: bytes, digest: str) -> bool:
    """Whether bytes have a digest "algorithm:hexadecimal".

    Example:
        >>> matches(b"", "md5:d41d8cd98f00b204e9800998ecf8427e")
        True
    """
    algorithm, _, expected = digest.partition(":")
    return hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() == expected


def standard_digest(name: str, split: str) -> str:
    """Digest of the standard file of a split of the text `name`; "" for a dataset that is no text."""
    return next((remote.digest for remote in DATASETS[name] if remote.file == f"{split}.txt"), "")


def status(name: str, folder: str | Path | None = None) -> dict[str, str]:
    """File -> "missing", "standard" or "different", for a dataset in `folder` (None: the cache).

    Raises:
        InputError: unknown dataset.
    """
    place = Path(folder) if folder is not None else cache_folder() / name
    return {remote.file: _state(place / remote.file, remote.digest) for remote in _remotes(name)}


def fetch(name: str) -> Path:
    """Folder of the cache that has all files of a dataset; what is missing there, or damaged, is downloaded.

    Args:
        name: a key of `DATASETS`.

    Raises:
        InputError: unknown dataset; no connection; what came has not the expected hash (it is removed); the
            cache cannot be written. The sentence says which file it was, and where to put it by hand.
    """
    folder = cache_folder() / name
    for remote in _remotes(name):
        if _state(folder / remote.file, remote.digest) != "standard":
            _fetch_one(name, remote, folder)
    return folder


def _remotes(name: str) -> tuple[Remote, ...]:
    check_known("dataset", name, DATASETS)
    return DATASETS[name]


def _state(path: Path, digest: str) -> str:
    if not path.is_file():
        return "missing"
    return "standard" if matches(_content(read_bytes(path)), digest) else "different"


def _content(data: bytes) -> bytes:
    """What a file holds; one that is packed may have been packed by anybody."""
    try:
        return gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data
    except (OSError, EOFError, zlib.error):
        return data


def _fetch_one(name: str, remote: Remote, folder: Path) -> None:
    here = folder / remote.file
    reasons = ["the one in the cache is not the standard file"] if here.is_file() else []
    for url in remote.urls:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(url, remote, folder)
            return
        except Exception as error:  # requests, urllib3, zipfile and the file system each have their own
            reasons.append(f"{url.split('/')[2]}: {_reason(error)}")
    raise InputError(
        f"{name}: the file {remote.file} could not be had ({'; '.join(dict.fromkeys(reasons))}); "
        f"put it into '{folder}' by hand, or name the folder that has it with --data."
    )


def _download(url: str, remote: Remote, folder: Path) -> None:
    """Fetch beside the target, check, and only then give the file its name: a damaged file never stays."""
    address, _, member = url.partition("#")
    partial = folder / f"{remote.file}.{os.getpid()}.part"
    try:
        _http(address, partial)
        data = _member(partial, member) if member else partial.read_bytes()
        if not matches(_content(data), remote.digest):
            raise ValueError("what came is not the expected file (its hash differs), so it was removed")
        partial.write_bytes(data)
        partial.replace(folder / remote.file)
    finally:
        partial.unlink(missing_ok=True)


def _member(archive: Path, member: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(archive) as opened:
        return opened.read(member)


def _http(url: str, target: Path) -> None:
    import pooch

    # One of the servers turns away the name that Python gives by default.
    headers = {"User-Agent": "Mozilla/5.0 (sparsernn)"}
    with ByteBar(url.split("/")[-1]) as progress:
        downloader = pooch.HTTPDownloader(progressbar=progress, headers=headers, timeout=TIMEOUT)
        downloader(url, str(target), None)


def _reason(error: Exception) -> str:
    """A few words for what requests says in five lines."""
    status_code = getattr(getattr(error, "response", None), "status_code", None)
    if status_code is not None:
        return f"the server answers {status_code}"
    kinds: tuple[tuple[str, str], ...] = (("Timeout", "no answer in time"), ("Connection", "no connection"))
    name = type(error).__name__
    return next((words for kind, words in kinds if kind in name), str(error).split("\n")[0][:120] or name)
