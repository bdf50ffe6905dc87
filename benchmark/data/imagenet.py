"""ImageNet and Tiny-ImageNet as they are unpacked: which files belong to which class. Every error is one line."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.data.image_files import ImageFiles, Listing, list_classes, list_image_files
from benchmark.errors import UserError

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
NAMES_FILE = "words.txt"  # of Tiny-ImageNet: <wnid><tab><synonyms, with commas between>


def list_imagenet(root: Path, classes: int | None = None) -> Listing:
    """List ImageNet (ILSVRC 2012): `<root>/train/<wnid>/*` and `<root>/val/<wnid>/*`, whose `val` is the test set.

    classes: at most so many, the first in alphabetical order; None: all. Raises UserError where a part is
    missing or not unpacked, where `val` is not sorted into classes, or where the classes of both differ.
    """
    layout = f"dataset=imagenet reads {root}/train/<wnid>/ and {root}/val/<wnid>/"
    _check_folder(root, f"{layout}: unpack ILSVRC 2012 there, or give dataset.root=<its folder>")
    for part in ("train", "val"):
        _check_folder(root / part, layout)
    names = {part: _class_folders(root / part) for part in ("train", "val")}
    if differing := sorted(set(names["train"]) ^ set(names["val"])):
        holder = root / ("train" if differing[0] in names["train"] else "val")
        raise UserError(
            f"{len(differing)} classes are in one of train and val only, {differing[0]} in {holder}: "
            f"{root}/train and {root}/val must have the same classes"
        )
    chosen = names["train"][:classes]
    train, test = (list_classes(root, {name: root / part / name for name in chosen}) for part in ("train", "val"))
    return Listing(train, test, tuple(chosen))


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the classes in a folder. Raises UserError where it is not sorted or not unpacked."""
    entries = sorted(folder.iterdir())
    if archives := [entry.name for entry in entries if entry.suffix == ".tar"]:
        raise UserError(
            f"{folder} holds {len(archives)} archives that are not unpacked, {archives[0]} first: "
            f"unpack each <wnid>.tar into {folder}/<wnid>/ and remove it"
        )
    if images := [entry.name for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]:
        how = "move each into the folder of its <wnid>"
        if folder.name == "val":
            how += ", as torchvision.datasets.ImageNet(root, 'val') does by the devkit's ground truth when it unpacks"
        raise UserError(f"{folder} holds {len(images)} images outside folders of classes, {images[0]} first: {how}")
    names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not names:
        raise UserError(f"{folder} is empty: images belong in {folder}/<wnid>/")
    return names


def list_tiny_imagenet(root: Path, classes: int | None = None) -> Listing:
    """List Tiny-ImageNet in its native layout; its `val` is the test set, since its test images have no labels.

    The layout: `wnids.txt`, `words.txt`, `train/<wnid>/images/*`, `val/images/*` with `val/val_annotations.txt`.
    Classes are labeled in alphabetical order of their wnids. classes: at most so many of them; None: all.

    Raises UserError where a part is missing.
    """
    layout = "tiny-imagenet-200.zip holds wnids.txt, train/ and val/"
    _check_folder(root, f"{layout}: unpack it there, or give dataset.root=<its folder>")
    wnids = sorted(filter(None, (line.strip() for line in _lines(root / "wnids.txt", layout))))
    folders = {wnid: root / "train" / wnid / "images" for wnid in wnids}
    if missing := [folder for folder in folders.values() if not folder.is_dir()]:
        raise UserError(
            f"{len(missing)} of {len(wnids)} classes have no training images, {missing[0]} is missing: unpack it again"
        )
    chosen = wnids[:classes]
    train = list_classes(root, {wnid: folders[wnid] for wnid in chosen})
    return Listing(train, _annotated(root, wnids, chosen), _names(root / NAMES_FILE, chosen))


def _annotated(root: Path, wnids: Sequence[str], chosen: Sequence[str]) -> ImageFiles:
    """List the images that `val_annotations.txt` names for the chosen classes."""
    path = root / "val" / "val_annotations.txt"
    rows = [line.split("\t") for line in _lines(path, "it names the classes of val/images") if line.strip()]
    if strange := next((row for row in rows if len(row) < 2 or row[1] not in wnids), None):
        raise UserError(f"{path}: {' '.join(strange[:2])!r} names no class of {root / 'wnids.txt'}: unpack it again")
    labels, images = {wnid: label for label, wnid in enumerate(chosen)}, root / "val" / "images"
    entries = [(str(images / name), labels[wnid]) for name, wnid, *_ in rows if wnid in labels]
    present = {entry.name for entry in images.iterdir()} if images.is_dir() else set()
    if missing := [file for file, _ in entries if Path(file).name not in present]:
        raise UserError(
            f"{len(missing)} of {len(entries)} images of {path} are missing, {missing[0]} first: unpack again"
        )
    if without := sorted(set(chosen) - {row[1] for row in rows}):
        raise UserError(f"{path} has no image of class {without[0]}: unpack it again")
    return list_image_files(root, entries)


def _names(path: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return the first synonym of each class; the wnid itself where it has none, or where two classes share one."""
    words: dict[str, str] = {}
    if path.is_file():
        for row in csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(row) == 2:
                words[row[0]] = row[1].split(",")[0].strip()
    names = [words.get(wnid, wnid) for wnid in wnids]
    return tuple(name if names.count(name) == 1 else wnid for name, wnid in zip(names, wnids, strict=True))


def _lines(path: Path, hint: str) -> Iterator[str]:
    """Yield the lines of a text file. Raises UserError where it cannot be read."""
    try:
        yield from path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError(f"{path} cannot be read ({reason}): {hint}") from error


def _check_folder(folder: Path, hint: str) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: {hint}")
