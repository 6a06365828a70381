"""A directory of pictures: a folder per class, or any folders and names of classes.

    data_root/
        classes.csv            optional: columns folder,name (or ; or tabs between)
        golden_retriever/      class "golden retriever"
            a.jpg
            2024/b.PNG         deeper folders belong to the class as well

Classes are the folders in alphabetical order. A folder without pictures is a class too,
so that labels do not depend on the pictures that are present. Folders that belong to an
operating system or a program (`helpers.data.ignored_folders`) are listed as skipped.

    data_root/
        class_names.txt        or class_names.csv, or the parameter class_names
        labels.csv             optional: columns path,name
        IMG_1.jpg              no label, but for what labels.csv says
        2024/cat/IMG_2.jpg     class "cat", if it is one of the names

Where classes are named, every picture is an image, whatever folder it lies in. It has a
label if the table says so, or else if a folder around it is called by a name of a class
(the nearest counts). A name may be any of its class's names. The name "none" in the
table says that a person has looked at the picture and that it shows none of the
classes: it has no label then, whatever folder it lies in.
"""

import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.data import ignored_folders, tables
from helpers.data.dataset import UNKNOWN, Dataset, Files, Info
from helpers.data.naming import Classes, flat, parse
from helpers.data.naming import read as names_in
from helpers.paths import from_root
from helpers.words import closest, composed, folded

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp"}
    | {".tif", ".tiff", ".pbm", ".pgm", ".pnm", ".ppm"}
)
UNREAD = dict.fromkeys((".heic", ".heif"), "HEIC is not read: export the photo as JPEG")
CLASSES_CSV = "classes.csv"
NAMES_FILES = ("class_names.txt", "class_names.csv")
LABELS_CSV = "labels.csv"
NAMED = 3  # images or folders without labels that are named
NO_NAME = "none"  # in labels.csv: a picture that shows none of the classes
LONGEST = 50  # characters, at most 200 bytes; file systems allow names of 255
WNID = re.compile(r"n\d{8}")
CODED = re.compile(r"\W?n?(\d+)[)\]]?[ ._-]+(.*[^\W\d_].*)")  # "001.Albatross"
NO_CLASS = "a picture beside the class folders: it has no class"
BESIDE = "no picture, beside the class folders"
RENAME = " (rename the folder if it is one)"
INFO = {
    "folder": Info(
        page="",
        megabytes=0,
        layout="<data_root>/<class name>/<any name>.jpg, two classes or more, and "
        f"optionally <data_root>/{CLASSES_CSV} with columns folder,name; or pictures "
        f"in any folders and <data_root>/{NAMES_FILES[0]} with a class in each line",
        images=0,
        classes=0,
    )
}


def data_folder(data_root: str) -> Path:
    """Return the folder that `data_root` means, whether or not it exists.

    "" is `data/` in the repository, "~" the home folder; a relative path starts at the
    repository's root, wherever the notebook runs.
    """
    return from_root(data_root or "data")


def own_name(data_root: str) -> str:
    """Return the folder's name, fit for file names; "folder" if it has none."""
    name = printable(data_folder(data_root).resolve().name)
    plain = re.sub(r"[^\w.+ -]", "_", unicodedata.normalize("NFC", name))
    return plain.lstrip(". ")[:LONGEST] or "folder"


def read(name: str, data_root: str, class_names: str | Sequence = "") -> Dataset:
    """Read the pictures under `data_root`; `helpers.data.read` sets the name.

    `class_names`, see `helpers.data.naming.parse`, go before a file of names.
    """
    if not data_root:
        raise ValueError("data set 'folder' needs data_root, the folder of pictures")
    root = data_folder(data_root)
    if not root.exists():
        raise FileNotFoundError(
            f"no folder {root}: set data_root to the folder of pictures"
        )
    if not root.is_dir():
        raise ValueError(f"data_root must be a folder, but {root} is a file")
    classes = parse(class_names) if class_names else _named_in(root)
    return _of_names(name, root, classes) if classes else _of_folders(name, root)


def _of_folders(name: str, root: Path) -> Dataset:
    """The pictures in class folders."""
    given, root = root, _innermost(root)
    if root != given:
        warnings.warn(
            f"all that {given} holds is in {root}: the folders there are the classes",
            stacklevel=3,
        )
    folders = class_folders(root)
    otherwise = (
        f"or name the classes, in {root / NAMES_FILES[0]} with one in each line or by "
        "the parameter class_names: no picture needs a folder of its class then"
    )
    if not folders:
        raise ValueError(
            f"{root} has no class folders: put the pictures of each class into a "
            f"folder of their own, {root.name}/<class name>/, {otherwise}"
        )
    if len(folders) < 2:
        raise ValueError(
            f"{root} has one class folder, {folders[0]}, but telling classes apart "
            "takes at least two: add a folder with pictures of something else, "
            f"{otherwise}"
        )
    names = class_names(root, folders)
    listing = listed(root, folders)
    _refuse_nothing(listing.ids, listing.skipped, f"the class folders of {root}")
    return Dataset(
        name=name,
        ids=listing.ids,
        labels=listing.labels,
        class_names=names,
        read=Files(listing.files, upright=True),
        skipped=listing.skipped,
        files=listing.files,
    )


def _of_names(name: str, root: Path, classes: Classes) -> Dataset:
    """All pictures below `root`, with labels where there are any."""
    label_of = _labels_of(classes)
    ids: list[str] = []
    skipped: list[tuple[str, str]] = []
    for relative, reason in _walk(root, ""):
        if not reason:
            ids.append(relative)
        elif relative not in (*NAMES_FILES, LABELS_CSV):
            skipped.append((printable(relative), reason))
    folders = (reversed(relative.split("/")[:-1]) for relative in ids)
    labels = [
        next((label_of[f] for f in map(folded, around) if f in label_of), UNKNOWN)
        for around in folders
    ]
    table, shows_none = root / LABELS_CSV, set()
    if os.path.lexists(table):
        for i, label in _labels_in(table, ids, skipped, classes):
            labels[i] = label
            if label == UNKNOWN:
                shows_none.add(i)
    _refuse_nothing(ids, skipped, str(root))
    files = tuple(root / relative for relative in ids)
    return Dataset(
        name=name,
        ids=tuple(ids),
        labels=np.asarray(labels),
        class_names=tuple(names[0] for names in classes),
        read=Files(files, upright=True),
        skipped=tuple(skipped),
        files=files,
        names=classes if any(len(names) > 1 for names in classes) else (),
        shows_none=tuple(ids[i] for i in sorted(shows_none)),
    )


def _labels_of(classes: Classes) -> dict[str, int]:
    """Label of each class's names, as `folded` writes them."""
    return {folded(n): i for i, names in enumerate(classes) for n in names}


def without_label(dataset: Dataset) -> list[str]:
    """Say, in a line each, which images of a user's folder have no label, and the cure.

    Folders come first that no class is called like, then the other images; of each kind
    three are named. Where no image has a label, only folders with nearly a class's name
    are told: the user has given none.
    """
    names, _ = dataset.every_name
    known = {folded(name) for name in names}
    around = [id.split("/")[:-1] for id in dataset.ids]
    labelled = zip(around, dataset.labelled, strict=True)
    by_folder = any(known & {*map(folded, parts)} for parts, yes in labelled if yes)
    inside: dict[str, list[str]] = {}
    for i in np.flatnonzero(~dataset.looked_at):
        inside.setdefault("/".join(around[i]), []).append(dataset.ids[i])
    rest = inside.pop("", [])
    lines: list[str] = []
    largest = sorted(inside, key=lambda folder: -len(inside[folder]))
    for folder in largest:
        parts = folder.split("/")[::-1] if len(lines) < NAMED else []
        near = next(filter(None, (closest(part, names) for part in parts)), "")
        if not near and not by_folder:
            rest += inside[folder]
            continue
        lines.append(
            f"{_images(len(inside[folder]))} in the folder {folder}: no class has its "
            f"name{near}; rename the folder or the class"
        )
    if len(lines) > NAMED:
        lines[NAMED:] = [f"and {len(lines) - NAMED:,} more folders that no class names"]
    where = f"or write its class into {LABELS_CSV} (columns path,name)"
    if rest and dataset.labelled.any():
        lie, one = ("lies", "it") if len(rest) == 1 else ("lie", "each")
        lines.append(
            f"{_some(rest)} {lie} in no folder of a class: move {one} into one or out "
            f"of the data set, {where}"
        )
    if dataset.shows_none and dataset.looked_at.all():
        lines.append(
            f"{_some(dataset.shows_none)}: {NO_NAME} in {LABELS_CSV}; chapters that "
            "measure against labels need such pictures moved out of the data set"
        )
    return lines


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count > 1)}"


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _named_in(root: Path) -> Classes:
    """The classes that a file in the folder names, () where there is none."""
    there = [root / file for file in NAMES_FILES if os.path.lexists(root / file)]
    if len(there) > 1:
        raise ValueError(f"{' and '.join(map(str, there))} both name classes: keep one")
    return names_in(there[0]) if there else ()


def _labels_in(
    table: Path,
    ids: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    classes: Classes,
) -> Iterator[tuple[int, int]]:
    """(position, label) of each row that has a name; those of skipped files do not.

    The label of a picture that shows none of the classes is -1. A class may be called
    so itself.
    """
    label_of = {NO_NAME: UNKNOWN} | _labels_of(classes)
    names = [NO_NAME, *flat(classes)[0]]
    positions = {_looks(path): i for i, path in enumerate(ids)}
    positions |= {path: i for i, path in enumerate(ids)}
    left_out, seen = {path for path, _ in skipped}, set()
    for row in tables.rows(table, "path", "name"):
        path, name = _looks(row["path"] or ""), composed(row["name"] or "")
        if not path and not name:  # spreadsheets leave such at the end
            continue
        i = positions.get(row["path"] or "", positions.get(path))
        if i is None and path not in left_out:
            raise ValueError(
                f"{table}: no picture {path!r} in {table.parent}: write its path from "
                "there, with /, or remove its row"
            )
        if i in seen:
            raise ValueError(f"{table} lists {path!r} twice")
        if name and folded(name) not in label_of:
            raise ValueError(
                f"{table}: {path!r} is labelled {name!r}, which is no name of a class"
                f"{closest(name, names)}: write the name of a class, or {NO_NAME} for "
                "a picture that shows none of them"
            )
        if i is not None:
            seen.add(i)
            if name:
                yield i, label_of[folded(name)]


def _refuse_nothing(
    ids: Sequence[str], skipped: Sequence[tuple[str, str]], where: str
) -> None:
    if not ids:
        first = f"; left out: {skipped[0][0]}, {skipped[0][1]}" if skipped else ""
        raise ValueError(
            f"no pictures in {where} (suffixes read: {' '.join(sorted(SUFFIXES))})"
            f"{first}"
        )


def nested(root: Path) -> Iterator[Path]:
    """Yield the folder, then each nested folder that is alone or has its parent's name.

    An archive that is unpacked into a folder of its own name leaves a/a/<class>.
    """
    while root.is_dir():
        yield root
        found = class_folders(root)
        inside = [name for name in found if name == root.name or len(found) == 1]
        if not inside:
            return
        root = root / inside[0]


def _innermost(root: Path) -> Path:
    """Return the folder of class folders: `root`, or the only folder nested in it.

    The search stops at a folder with pictures or a table of class names.
    """
    for folder in nested(root):
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not _is_folder(entry)]
        if CLASSES_CSV in names or any(_suffix(name) in SUFFIXES for name in names):
            break
        if len(class_folders(folder)) > 1:
            return folder
    return root


def class_folders(root: Path) -> list[str]:
    """Return the sorted names of the folders in `root` that are not ignored."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _is_folder(entry) and not ignored_folders.reason(entry.name)
        )


def class_names(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each folder, from `classes.csv` or else from the folder's name.

    Raises ValueError if two folders share a name, the table does not match the folders,
    or their names are WordNet ids.
    """
    table = root / CLASSES_CSV
    has_table = os.path.lexists(table)
    names = _names_from_table(table, folders) if has_table else _spoken(root, folders)
    first: dict[str, str] = {}
    for folder in folders:
        if not names[folder]:
            raise ValueError(f"folder {folder!r} in {root} gives an empty class name")
        twin = first.setdefault(folded(names[folder]) or names[folder], folder)
        if twin != folder:
            raise ValueError(
                f"folders {twin!r} and {folder!r} in {root} are both class "
                f"{names[folder]!r}: merge them, or tell them apart in {CLASSES_CSV}"
            )
    return tuple(names[folder] for folder in folders)


def _spoken(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Folder -> name, with blanks for underscores and hyphens.

    Warns if WordNet ids or running numbers, which say nothing to CLIP, are taken off.
    Numbers that only tell names apart stay: "10 euro" and "20 euro".
    """
    for folder in folders:
        if not _is_text(folder):
            raise ValueError(
                f"folder name {folder!a} in {root} is not valid UTF-8: rename it"
            )
    table = root / CLASSES_CSV
    if all(WNID.fullmatch(folder) for folder in folders):
        raise ValueError(
            f"the folders of {root} are named by WordNet ids ({folders[0]}, …), which "
            "say nothing to CLIP: set dataset to imagenet, imagenet-a, imagenet-r or "
            f"imagenet-sketch, or write names into {table} (columns folder,name)"
        )
    names = {folder: composed(re.sub("[_-]", " ", folder)) for folder in folders}
    coded = [match for folder in folders if (match := CODED.fullmatch(folder))]
    numbers = sorted({int(match[1]) for match in coded})
    bare = {match[0]: composed(re.sub("[_-]", " ", match[2])) for match in coded}
    padded = any(match[1][0] == "0" or match[0][0] == "n" for match in coded)
    running = padded or numbers == [*range(1, len(folders) + 1)]
    if running and len({*map(folded, bare.values())}) == len(numbers) == len(folders):
        warnings.warn(
            f"codes are taken off the folders' names in {root}: {folders[0]} is "
            f"{bare[folders[0]]!r}; other names go into {table} (columns folder,name)",
            stacklevel=4,
        )
        return bare
    return names


def _names_from_table(table: Path, folders: Sequence[str]) -> dict[str, str]:
    """Folder -> name; rows match folders by what is visible, see `_looks`."""
    of = {_looks(folder): folder for folder in folders}
    if len(of) < len(folders):
        raise ValueError(
            f"two folders of {table.parent} look alike: rename one, or merge them"
        )
    names: dict[str, str] = {}
    for row in tables.rows(table, "folder", "name"):
        given, name = composed(row["folder"] or ""), composed(row["name"] or "")
        if not given and not name:  # spreadsheets leave such at the end
            continue
        own = of.get(_looks(given))
        if own is None:
            raise ValueError(
                f"{table}: name {name!r} is for folder {given!r}, which does not exist "
                "or is no class: correct or remove its row"
            )
        if own in names:
            raise ValueError(f"{table} lists folder {given!r} twice")
        names[own] = name
    for folder in folders:
        if folder not in names:
            raise ValueError(
                f"{table}: folder {folder!r} is not in the table: add a row"
            )
    return names


def _looks(folder: str) -> str:
    """The name in composed Unicode, without invisible characters and outer blanks."""
    return composed("".join(c for c in folder if unicodedata.category(c) != "Cf"))


@dataclass(frozen=True)
class Listing:
    """Picture files in class folders, sorted by class; ids are relative to the root."""

    ids: tuple[str, ...]
    labels: np.ndarray
    files: tuple[Path, ...]
    skipped: tuple[tuple[str, str], ...]


def listed(root: Path, folders: Sequence[str]) -> Listing:
    """List the pictures in class folders without opening them; label i is folder i.

    A folder that does not exist has no pictures. `skipped` has the reason for every
    file that is left out: other suffixes, hidden and empty files, broken links, names
    that are not UTF-8, links to folders, and files beside the class folders.
    """
    ids: list[str] = []
    labels: list[int] = []
    skipped: list[tuple[str, str]] = []
    for label, folder in enumerate(folders):
        for relative, reason in _walk(root, folder):
            if reason:
                skipped.append((printable(relative), reason))
            else:
                ids.append(relative)
                labels.append(label)
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if _is_folder(entry):
                reason = ignored_folders.reason(entry.name)
                reason += f", no class{RENAME}" if reason else ""
            else:
                reason = NO_CLASS if _suffix(entry.name) in SUFFIXES else BESIDE
            if reason and entry.name != CLASSES_CSV:
                skipped.append((printable(entry.name), reason))
    return Listing(
        ids=tuple(ids),
        labels=np.asarray(labels, dtype=np.int64),
        files=tuple(root / relative for relative in ids),
        skipped=tuple(skipped),
    )


def _walk(root: Path, folder: str) -> Iterator[tuple[str, str]]:
    """Every file below root/folder as (path relative to root, reason to skip or "").

    What lies directly in the root, `folder` "", follows the rules of class folders.
    """
    try:
        with os.scandir(root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
        relative = f"{folder}/{entry.name}" if folder else entry.name
        if not _is_folder(entry):
            yield relative, _reason_to_skip(entry)
        elif folder and entry.is_symlink():
            yield relative, "a link to a folder, not followed inside a class"
        elif reason := ignored_folders.reason(entry.name, inside=bool(folder)):
            yield relative, reason
        elif not _is_text(entry.name):
            yield relative, "the folder name is not valid UTF-8"
        else:
            yield from _walk(root, relative)


def _reason_to_skip(entry: os.DirEntry) -> str:
    suffix = _suffix(entry.name)
    if entry.name.startswith("."):
        return "hidden"
    if suffix in UNREAD:
        return UNREAD[suffix]
    if suffix not in SUFFIXES:
        return f"no picture suffix ({suffix or 'none'})"
    if not _is_text(entry.name):
        return "the file name is not valid UTF-8"
    try:
        found = entry.stat()
    except OSError:  # a link to nothing, or a circle of links
        return "broken link"
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for a writer
        return "no file, but a pipe, a socket or a device"
    return "" if found.st_size else "empty file (0 bytes)"


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether this is a folder or a link to one; circular links are not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_text(name: str) -> bool:
    """Whether a file name is valid UTF-8, so that tables can hold it."""
    return printable(name) == name


def printable(name: str) -> str:
    """Return the name with undecodable bytes escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def warn_if_partial(name: str, root: Path, folders: Sequence[str]) -> None:
    """Warn of missing class folders of a known data set; labels stay right."""
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        warnings.warn(
            f"{name} in {root} is partial: {len(missing)} of {len(folders)} class "
            f"folders are missing ({', '.join(missing[:3])}, …). Labels stay right and "
            "all classes stay candidates, but accuracies are not those of the full set",
            stacklevel=2,
        )
