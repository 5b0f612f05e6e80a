"""Checkpoints: a folder of plain data, complete or not there.

::

    root/000004096/manifest.json         first its own checksum, then everything that is no array
    root/000004096/learner.safetensors   the arrays of one top-level key of the state
    root/best/                           the policy of the best evaluation, which is not pruned

Nothing in them can run code. A checkpoint is written beside its place (``.tmp-<number>-<pid>``),
every file and folder is synced to the disk, then it is renamed: interrupted at any instant, the
last complete one is still there. One process at a time may write below one root; any number may
read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

import psutil

from shoal import __version__
from shoal.checkpoint.tree import (
    MAX_JSON,
    Damage,
    check_size,
    decode,
    encode,
    ndarray,
    pack,
    parse,
    read_tensors,
)
from shoal.errors import CheckpointError

FORMAT_VERSION = 1
BEST = "best"  # name of the one that is kept beside those with numbers
_MANIFEST = "manifest.json"
_BINARY = getattr(os, "O_BINARY", 0)  # Windows changes the ends of lines without it
_NEITHER_LINK_NOR_PIPE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_CHUNK = 1 << 20  # bytes of one write
_HEAD = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n')
_NUMBER = re.compile(r"\d{9,18}")
_BESIDE = re.compile(r"\.(tmp|old)-(\d{1,18}|best)-(\d{1,9})")
_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,63}")


def save(
    root: str | Path,
    number: int,
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write a checkpoint to ``root/<number, nine digits>`` and return that folder.

    Args:
        root: folder of checkpoints; made where it is missing.
        number: orders the checkpoints below one root. The same number replaces the earlier one.
        state: tree of dicts, lists, tuples and sets, at most 64 deep, over NumPy arrays and
            scalars (bool, integers, float16 to float64), str, int of any size, float, bool, None,
            bytes and paths. It comes back exactly, types included; only an array's memory layout
            and byte order come back as the machine's own.
        meta: the same, with arrays and bytes of up to 1 MiB each. "format_version", "shoal" (the
            version) and "time" are added.
        keep: how many stay, this one included; those of lower numbers beyond are deleted.

    Raises CheckpointError, earlier checkpoints untouched, for what cannot be stored or written.
    """
    root = Path(root)
    if not _NUMBER.fullmatch(_name(number)):
        raise CheckpointError(f"a checkpoint cannot have the number {number}", str(root))
    with _put(root, str(number), state, meta) as final:
        for _, path in [x for x in _found(root) if x[0] < number][::-1][max(keep, 1) - 1 :]:
            _delete(path)
    return final


def save_best(root: str | Path, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
    """Write ``root/best`` in the place of the one before, as ``save`` does; returns that folder."""
    with _put(Path(root), BEST, state, meta) as final:
        return final


@contextmanager
def _put(
    root: Path, what: str, state: Mapping[str, Any], meta: Mapping[str, Any]
) -> Iterator[Path]:
    """The folder of a checkpoint that was written; what fails inside is blamed on the writing."""
    final = root / _name(what)
    tensors, body = _encode_all(state, meta)
    new, old = (root / f".{kind}-{what}-{os.getpid()}" for kind in ("tmp", "old"))
    try:
        if not root.is_dir():
            os.makedirs(root, exist_ok=True)
            _sync(root.parent)
        _clean(root)
        try:
            _write_folder(new, tensors, body)
            if final.exists():
                os.rename(final, old)
            os.rename(new, final)
            _sync(root)
        except BaseException:
            # What interrupted the writing is raised; what this leaves undone the next save does.
            with suppress(OSError):
                _clean(root)
            raise
        _clean(root)
        yield final
    except OSError as error:
        need = sum(a.nbytes for arrays in tensors.values() for a in arrays.values()) / 1e6
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CheckpointError(
            f"cannot write the checkpoint: {error}",
            str(final),
            f"make room on the disk: it takes {need:.1f} MB (earlier checkpoints are untouched)"
            if full
            else "make the folder writable, or choose another (earlier checkpoints are untouched)",
        ) from error


def _name(what: int | str) -> str:
    """Name of the folder of a checkpoint: its number in nine digits, or "best"."""
    return BEST if what == BEST else f"{int(what):09d}"


def best_of(path: str | Path) -> Path:
    """The best checkpoint of a run folder, or of a root of checkpoints.

    Raises CheckpointError if there is none.
    """
    for root in (Path(path), Path(path) / "checkpoint"):
        if _beside(root / BEST) is not None:
            return root / BEST
    fix = "train with --evaluate-every N, up to the first evaluation; or leave out best"
    raise CheckpointError("there is no best checkpoint: nothing was evaluated", str(path), fix)


def best_result(root: str | Path) -> tuple[float, int] | None:
    """The return of the best evaluation whose policy is kept below a root, and its env steps.

    None if there is none. Raises CheckpointError for one that is damaged.
    """
    best = Path(root) / BEST
    if _beside(best) is None:
        return None
    _, meta = load(best, parts=())
    with blame(best):
        return float(meta["best"]["return_mean"]), int(meta["best"]["env_steps"])


def load(
    path: str | Path, parts: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and meta of a checkpoint; of the state only these ``parts`` (None: all).

    ``path`` is a checkpoint, a root of them (the newest is loaded), or a run folder (its
    "checkpoint" is the root). Every size and checksum is verified before anything is parsed; files
    of parts that are not asked for are not read.

    Raises CheckpointError for a checkpoint that is damaged, hostile or of a newer format. Where an
    older good one stands beside it, the error names it; it is never taken silently.
    """
    path = Path(path)
    try:
        folder = _choose(path)
        try:
            return _read(folder, parts)
        except Damage as damage:
            if not folder.exists():  # its writer has meanwhile put a newer one in its place
                return load(path, parts)
            older = _older_good(folder)
            fix = f"load the older good one: {older}" if older else "restore it from a copy of it"
            if folder.name == BEST:
                fix = "delete this folder: the next evaluation writes it anew"
            raise CheckpointError(str(damage), str(folder), fix) from damage
    except OSError as error:
        fix = "make it readable"
        raise CheckpointError(f"cannot read the checkpoint: {error}", str(path), fix) from error


@contextmanager
def blame(path: str | Path) -> Iterator[None]:
    """Raises CheckpointError for whatever goes wrong inside for want of fitting contents.

    For those who take apart what ``load`` returned: a key that is missing, a type or shape that
    does not fit. Shoal's own errors pass as they are.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"the checkpoint's contents do not fit: {type(e).__name__}: {e}",
            str(path),
            "load it with the settings and the version of Shoal that wrote it",
        ) from e


# ------------------------------------------------------------------ folders


def _found(root: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints below a root, oldest first.

    One that was moved aside to be replaced counts as long as its successor is not in its place.
    """
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    found = {int(name): root / name for name in names if _NUMBER.fullmatch(name)}
    for beside in filter(None, map(_BESIDE.fullmatch, names)):
        if beside[1] == "old" and beside[2] != BEST:
            found.setdefault(int(beside[2]), root / beside[0])
    return sorted(found.items())


def _beside(best: Path) -> Path | None:
    """The best checkpoint; where it was moved aside to be replaced, as long as that lasts."""
    if (best / _MANIFEST).exists():
        return best
    return next(best.parent.glob(f".old-{BEST}-*"), None)


def _choose(path: Path) -> Path:
    if (path / _MANIFEST).exists():
        return path
    if path.name == BEST and (moved := _beside(path)) is not None:
        return moved
    for root in (path, path / "checkpoint"):
        found = _found(root)
        if found:
            return found[-1][1]
    if _NUMBER.fullmatch(path.name) and path.is_dir():
        return path
    fix = "give a run folder, its checkpoint folder, or one checkpoint in that"
    raise CheckpointError("there is no checkpoint", str(path), fix)


def _older_good(folder: Path) -> Path | None:
    """The newest checkpoint beside a damaged one, and older than it, whose files are all sound."""
    found = _found(folder.resolve().parent)
    numbers = {path.name: number for number, path in found}
    own = numbers.get(folder.resolve().name, -1)
    for number, path in reversed(found):
        if number < own:
            try:
                _verify(path, _read_manifest(path))
            except (Damage, CheckpointError, OSError):
                continue
            return path
    return None


def _clean(root: Path) -> None:
    """Put back what was moved aside by a writer that did not finish; delete its other leavings."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for beside in filter(None, map(_BESIDE.fullmatch, names)):
        final = root / _name(beside[2])
        if not _alive(int(beside[3])):
            if beside[1] == "tmp":
                shutil.rmtree(root / beside[0])
            elif final.exists():
                _delete(root / beside[0])
            else:
                os.rename(root / beside[0], final)


def _delete(folder: Path) -> None:
    """Renamed first, so that half a checkpoint never stands under a checkpoint's name."""
    beside = _BESIDE.fullmatch(folder.name)
    what = beside[2] if beside else str(int(folder.name))
    doomed = folder.with_name(f".tmp-{what}-{os.getpid()}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _alive(pid: int) -> bool:
    """Whether another process of that number runs; this one is not writing when it asks."""
    if pid == os.getpid():
        return False
    try:
        return psutil.pid_exists(pid)
    except OverflowError:
        return False


# ------------------------------------------------------------------ writing


def _encode_all(
    state: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, dict[str, ndarray]], dict[str, Any]]:
    """The arrays of each file, and the manifest's body but for the checksums of those files."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    body: dict[str, Any] = {"format_version": FORMAT_VERSION, "shoal": __version__, "time": now}
    reserved = {"sha256", "files", "state"}.intersection(meta)
    wrong = [key for key in (*meta, *state) if type(key) is not str]
    if reserved or wrong:
        what = f"a checkpoint cannot have an entry {[*reserved, *wrong][0]!r}"
        raise CheckpointError(what, None, "give it another name")
    body |= {key: encode(value, ("meta", key), None) for key, value in meta.items()}
    body |= {"format_version": FORMAT_VERSION, "files": {}, "state": {}}
    tensors: dict[str, dict[str, ndarray]] = {}
    for key, name in _file_names(state).items():
        arrays: dict[str, ndarray] = {}
        body["state"][key] = encode(state[key], (key,), arrays)
        if arrays:
            tensors[name] = arrays
    return tensors, body


def _file_names(keys: Iterable[str]) -> dict[str, str]:
    """The file that holds the arrays of each top-level key of a state."""
    return {
        key: f"{key if _PLAIN.fullmatch(key) else f'part-{i}'}.safetensors"
        for i, key in enumerate(keys)
    }


def _write_folder(
    folder: Path, tensors: Mapping[str, Mapping[str, ndarray]], body: dict[str, Any]
) -> None:
    os.mkdir(folder)
    for name, arrays in tensors.items():
        size, digest = _write(folder / name, pack(arrays))
        body["files"][name] = {"size": size, "sha256": digest}
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in body.items())
    text = (",\n".join(lines) + "}\n").encode()
    check_size(text)
    head = b'{"sha256": "%s",\n' % hashlib.sha256(text).hexdigest().encode()
    _write(folder / _MANIFEST, [head + text])
    _sync(folder)


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write and sync a new file; its size and sha256."""
    size, digest = 0, hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                done = os.write(fd, rest[:_CHUNK])
                digest.update(rest[:done])
                size, rest = size + done, rest[done:]
        os.fsync(fd)
    finally:
        os.close(fd)
    return size, digest.hexdigest()


def _sync(folder: Path) -> None:
    """Make the names in a folder last; Windows has no way to, and keeps a journal of them."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ------------------------------------------------------------------ reading


def _read(folder: Path, wanted: Collection[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    manifest = _read_manifest(folder)
    _verify(folder, manifest, wanted)
    files, parts = manifest.pop("files"), manifest.pop("state")
    state = {}
    for key, name in _file_names(parts).items():
        if wanted is not None and key not in wanted:
            continue
        arrays = read_tensors(folder / name) if name in files else {}
        state[key] = decode(parts[key], arrays)
        if arrays:
            raise Damage(f"{name} holds arrays that {_MANIFEST} does not name")
    return state, {key: decode(value, {}) for key, value in manifest.items()}


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    """A regular file below a checkpoint; neither a link, nor a pipe that would keep us waiting."""
    try:
        fd = os.open(path, os.O_RDONLY | _BINARY | _NEITHER_LINK_NOR_PIPE)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Damage(f"{path.name} is not a regular file")
            yield file
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest without its own checksum, which covers every byte after it."""
    with _open(folder / _MANIFEST) as file:
        raw = file.read(MAX_JSON + 1024)
    head = _HEAD.match(raw)
    if head is None or hashlib.sha256(raw[head.end() :]).hexdigest().encode() != head[1]:
        raise Damage(f"{_MANIFEST} is damaged: it does not match its checksum")
    manifest: dict[str, Any] = parse(b"{" + raw[head.end() :], _MANIFEST)
    version = manifest.pop("format_version", None)
    if type(version) is int and version > FORMAT_VERSION:
        writer = str(manifest.get("shoal", "of an unknown version"))
        raise CheckpointError(
            f"this checkpoint has format {version}, written by Shoal {writer}; "
            f"this is Shoal {__version__}, which reads formats up to {FORMAT_VERSION}",
            str(folder),
            f"install Shoal {writer} or newer",
        )
    if version != FORMAT_VERSION or type(version) is not int:
        raise Damage(f"{_MANIFEST} has the format version {version!r}, which never existed")
    return {"format_version": version, **manifest}


def _verify(
    folder: Path, manifest: Mapping[str, Any], wanted: Collection[str] | None = None
) -> None:
    """Sizes and checksums of all files, or of those of the ``wanted`` parts.

    Their names are derived, never taken from the manifest.
    """
    files, state = manifest.get("files"), manifest.get("state")
    if not isinstance(files, dict) or not isinstance(state, dict):
        raise Damage(f'{_MANIFEST} lacks "files" or "state"')
    names = _file_names(state)
    strange = set(files).difference(names.values())
    if strange:
        raise Damage(f"{_MANIFEST} lists {min(strange)!r}, which is no file of this checkpoint")
    unread = set() if wanted is None else {x for key, x in names.items() if key not in wanted}
    for name, entry in files.items():
        if name in unread:
            continue
        with _open(folder / name) as file:
            size = os.fstat(file.fileno()).st_size
            if not isinstance(entry, dict) or entry.get("size") != size:
                raise Damage(f"{name} is damaged: its size is {size}, not what was written")
            if entry.get("sha256") != hashlib.file_digest(file, "sha256").hexdigest():
                raise Damage(f"{name} is damaged: it does not match its checksum")
