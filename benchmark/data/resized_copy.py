"""A copy of image files that decodes faster: shorter side of at most 256 pixels, JPEG. It is made once.

    <cache_dir>/<hash of the files>-256px-q90/<relative path>.jpg

A file is renamed into place when it is complete, so that an interrupted copy is continued. One process makes the copy
while others wait.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from benchmark.data.decoding import UnreadableImage, decode
from benchmark.data.image_files import FileSplit, in_threads
from benchmark.data.image_folder import Unreadable
from benchmark.data.limits import SHORTER_SIDE
from benchmark.runs.locks import lock

QUALITY = 90
KEY = f"shorter side {SHORTER_SIDE}, JPEG quality {QUALITY}"  # persisted in identities of runs on a copy
SUFFIX = ".jpg"  # appended, as a.png and a.jpeg may lie in one folder


def ensure(split: FileSplit, cache_dir: str) -> FileSplit:
    """Return the same images in the copy below `cache_dir`, after making those that are missing there.

    Raises UserError where files cannot be decoded.
    """
    root = Path(os.path.expandvars(cache_dir)).expanduser() / f"{_hash_of_files(split)}-{SHORTER_SIDE}px-q{QUALITY}"
    files = dataclasses.replace(split.files, root=root, suffix=SUFFIX, as_shown=False)
    copied = dataclasses.replace(split, files=files)
    complete = root / f"complete-{hashlib.sha256(split.rows.tobytes()).hexdigest()[:12]}"
    if not complete.exists():
        root.mkdir(parents=True, exist_ok=True)
        with lock(root / "lock", wait=True):
            _copy_missing(split, copied)
        complete.touch()
    return copied


def _hash_of_files(split: FileSplit) -> str:
    digest = hashlib.sha256(split.files.text.tobytes())
    digest.update(split.files.ends.tobytes() + split.files.sizes.tobytes())
    return digest.hexdigest()[:12]


def _copy_missing(originals: FileSplit, copies: FileSplit) -> None:
    missing = [i for i in range(len(copies.rows)) if not os.path.exists(copies.path(i))]
    unreadable = Unreadable()

    def make(index: int) -> None:
        try:
            _make(originals.path(index), copies.path(index), originals.files.as_shown)
        except UnreadableImage as error:
            unreadable.reasons[originals.path(index)] = str(error)

    in_threads(make, missing, f"copy of {len(missing):,} images of {originals.files.root}, {KEY}")
    unreadable.check()


def _make(original: str, copy: str, as_shown: bool) -> None:
    from torchvision.transforms.v2 import functional as F

    image: Any = decode(original, as_shown)
    if min(image.size) > SHORTER_SIDE:
        image = F.resize(image, [SHORTER_SIDE])
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    part = f"{copy}.{os.getpid()}.part"
    image.save(part, "JPEG", quality=QUALITY)
    os.replace(part, copy)
