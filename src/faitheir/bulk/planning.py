"""What is to be done: the pictures of SOURCE whose outputs are not in TARGET, found by listing both, folder by folder.

Nothing is opened, and memory holds one folder at a time, of SOURCE and of TARGET; a list of paths, a pattern and a
Parquet file are held whole, in Arrow. What is found leaves here in units, each for one task.
"""

import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from faitheir.batches import Naming, check_conflicts
from faitheir.bulk.stores import Entry, Listing, Store, join, refuse_credentials, split
from faitheir.errors import PlanError, StorageError, why
from faitheir.files import is_picture

Verb = Literal["downscale", "upscale", "roundtrip"]

#: The folder in TARGET that holds the settings, the manifest, and what shards need. It is skipped in SOURCE.
RECORDS = "faitheir-bulk"
SHARD_SUFFIX = ".tar"
#: A task's files, and bytes of them, at most. At its ends a model waits for a store, so it takes seconds at least.
UNIT_FILES, UNIT_BYTES = 32, 64 << 20
#: Files that are found before it is settled how many a task gets: few of them go to all workers evenly.
_LOOK_AHEAD = 4096


class File(NamedTuple):
    """A picture, or a shard of them, that is to be worked on."""

    number: int
    """Counted from 0 in the order of the plan."""
    path: str
    """In the source."""
    size: int | None
    base: str
    """Path in TARGET to which the outputs' endings are added; for a shard, the folder of its members' outputs."""
    shard: str = ""
    """The shard in TARGET that takes its outputs, and its mark."""
    data: bytes | None = None
    """What is in it, where workers cannot read it."""


class Skipped(NamedTuple):
    """A file whose outputs exist."""

    path: str
    size: int | None
    outputs: list[str]
    bytes_after: int


class Shard(NamedTuple):
    """A shard to be written to TARGET: it is there once its mark is."""

    path: str
    mark: str
    """Name of the mark's file in the folder of marks."""
    parts: str | None
    """The folder of the files that go into it; None where it is not to be written, but its members are."""


@dataclass
class Part:
    """What was found of one folder, or of a part of a large one."""

    files: list[File] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    problem: str | None = None
    """Why a folder's files cannot be worked on."""


@dataclass(frozen=True)
class Source:
    """SOURCE, whatever it is."""

    store: Store
    """The folder that all of it is in."""
    shards: bool = False
    found: Callable[[], Iterator[tuple[str, int | None]]] | None = None
    """The paths in the store, and sizes, where they are named one by one; otherwise the folder is walked."""

    def folders(self, target: Store, wanted: Callable[[str], bool]) -> Iterator[tuple[str, list[Entry], Listing]]:
        """Each folder with files that are wanted, these in order, and what is in it in TARGET.

        StorageError where a folder cannot be listed.
        """
        if self.found is not None:
            yield from self._named(target, wanted)
            return
        stack = [("", True)]
        while stack:
            place, exists = stack.pop()
            here = self.store.list(place)
            there = target.list(place) if exists else Listing()
            below = set(there.folders)
            for name in sorted(here.folders, reverse=True):
                if not name.startswith(".") and (place or name != RECORDS):
                    stack.append((join(place, name), name in below))
            if files := [here.files[name] for name in sorted(filter(wanted, here.files))]:
                yield place, files, there

    def _named(self, target: Store, wanted: Callable[[str], bool]) -> Iterator[tuple[str, list[Entry], Listing]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        assert self.found is not None
        paths: list[pa.Array] = []
        sizes: list[pa.Array] = []
        block: list[tuple[str, int | None]] = []

        def store() -> None:
            paths.append(pa.array([path for path, _ in block], pa.large_string()))
            sizes.append(pa.array([size for _, size in block], pa.int64()))
            block.clear()

        for item in self.found():
            block.append(item)
            if len(block) >= 1 << 16:
                store()
        store()
        path = pa.chunked_array(paths)
        parts = pc.extract_regex(path, r"^(?P<folder>(?:.*/)?)(?P<name>[^/]*)$")
        table = pa.table(
            {
                "folder": pc.struct_field(parts, "folder"),
                "name": pc.struct_field(parts, "name"),
                "size": pa.chunked_array(sizes),
            }
        ).sort_by([("folder", "ascending"), ("name", "ascending")])
        del path, parts
        folder: str | None = None
        entries: dict[str, Entry] = {}
        for batch in table.to_batches(1 << 16):
            for place, name, size in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if place != folder:
                    if folder is not None and entries:
                        yield folder.rstrip("/"), list(entries.values()), target.list(folder.rstrip("/"))
                    folder, entries = place, {}
                if wanted(name):
                    entries[name] = Entry(name, size, None)
        if folder is not None and entries:
            yield folder.rstrip("/"), list(entries.values()), target.list(folder.rstrip("/"))


def open_source(source: str) -> Source:
    """SOURCE as the command line names it; PlanError where there is nothing of that name.

    A folder or its address; a pattern; a file of paths (.txt, one a line; .parquet, in the column "path", and "size" or
    "bytes" if there is one); one picture; one shard (.tar), a pattern of shards, or "name-{000..123}.tar".
    """
    refuse_credentials(source)
    if braces := re.search(r"\{(\d+)\.\.(\d+)\}", source):
        first, last = braces.groups()
        numbers = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
        names = [source[: braces.start()] + number + source[braces.end() :] for number in numbers]
        return _listed(lambda: ((name, None) for name in names), source)
    if magic := re.search(r"[*?[]", source):
        cut = source[: magic.start()].rfind("/")
        root, pattern = (source[: cut + 1] or "/", source[cut + 1 :]) if cut >= 0 else (".", source)
        store = Store(root)
        return Source(store, _is_shard(source), lambda: store.glob(pattern))
    folder, name = split(source)
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix in (".txt", ".parquet", SHARD_SUFFIX) or is_picture(name):
        parent = Store(folder)
        if parent.is_file(name):
            if suffix == ".txt":
                return _listed(lambda: _lines(parent, name), source)
            if suffix == ".parquet":
                return _listed(lambda: _rows(parent, name), source)
            size = parent.list().files[name].size
            return Source(parent, suffix == SHARD_SUFFIX, lambda: iter([(name, size)]))
    store = Store(source)
    if not store.is_folder():
        raise PlanError(f"{source} does not exist; check the name.")
    return Source(store)


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SHARD_SUFFIX)


def _lines(store: Store, name: str) -> Iterator[tuple[str, int | None]]:
    try:
        lines = store.read(name).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise PlanError(f"{store.shown(name)} is not in UTF-8; write it so.") from None
    for line in filter(None, map(str.strip, lines)):
        yield line, None


def _rows(store: Store, name: str) -> Iterator[tuple[str, int | None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(store.read(name)))
        columns = file.schema_arrow.names
        if "path" not in columns:
            raise PlanError(f"{store.shown(name)} has no column 'path'; name the column of paths so.")
        size = next((column for column in ("size", "bytes") if column in columns), None)
        for batch in file.iter_batches(columns=["path", *([size] if size else [])]):
            sizes = batch.column(1).to_pylist() if size else [None] * len(batch)
            yield from zip(batch.column(0).to_pylist(), sizes, strict=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise PlanError(f"{store.shown(name)} is no Parquet file that can be read ({why(error)}).") from None


def _listed(paths: Callable[[], Iterable[tuple[str, int | None]]], named: str) -> Source:
    """Paths from a list, below the folder that they share."""
    common: str | None = None
    shards = kinds = 0
    for path, _ in paths():
        refuse_credentials(path)
        folder = split(path)[0]
        kinds += 1
        shards += _is_shard(path)
        if common is None:
            common = folder
        while not f"{folder}/".startswith(f"{common}/"):
            if (above := split(common)[0]) == common or common == ".":
                raise PlanError(f"{named} names {path} and files elsewhere; list those of one store at a time.")
            common = above
    if common is None:
        raise PlanError(f"{named} names no files; give one path a line.")
    if shards not in (0, kinds):
        raise PlanError(f"{named} names pictures and shards; list them apart.")
    store = Store(common)
    cut = 0 if common == "." else len(common.rstrip("/")) + 1
    return Source(store, bool(shards), lambda: ((path[cut:], size) for path, size in paths()))


@dataclass(frozen=True)
class Record:
    """What TARGET says of the outputs in it."""

    settings: dict[str, Any]
    since: float
    """Outputs older than this, in seconds since 1970, are of other settings: when the settings were written."""


def read_record(target: Store, verb: Verb) -> Record | None:
    """The settings that TARGET's outputs of a verb have; None where it does not say. PlanError where it is damaged."""
    name = f"settings-{verb}.json"
    found = target.list(RECORDS).files.get(name)
    if found is None:
        return None
    try:
        record = json.loads(target.read(join(RECORDS, name)))
        return Record(dict(record["settings"]), 0.0 if record["adopted"] else found.modified or 0.0)
    except (ValueError, KeyError, TypeError):
        where = target.shown(join(RECORDS, name))
        raise PlanError(f"{where} is damaged; give --overwrite, or another TARGET.") from None


def write_record(target: Store, verb: Verb, settings: dict[str, Any], *, adopted: bool) -> None:
    """Say that TARGET's outputs of a verb have these settings from now on, and what is there if it is adopted.

    PlanError where TARGET cannot be written to.
    """
    record = json.dumps({"settings": settings, "adopted": adopted}, indent=2, sort_keys=True) + "\n"
    try:
        target.write(join(RECORDS, f"settings-{verb}.json"), record.encode())
    except StorageError as error:
        raise PlanError(str(error)) from error


class Planner:
    """Finds what is to be done.

    ``per_shard``: outputs go into shards of the outputs of so many files (0: files beside each other, as the tree of
    SOURCE is). ``since``: see `Record`.
    """

    def __init__(
        self, source: Source, target: Store, naming: Naming, *, since: float = 0.0, per_shard: int = 0
    ) -> None:
        self.source, self.target, self.naming = source, target, naming
        self.since, self.per_shard = since, per_shard
        self.number = 0
        self._same = source.store.url == target.url

    def parts(self) -> Iterator[Part]:
        """What there is to do, as it is found. PlanError where SOURCE has no pictures."""
        wanted: Callable[[str], bool] = _is_shard if self.source.shards else self._wanted(self.naming.wanted)
        found = False
        for part in self._parts(wanted):
            found = True
            yield part
        if not found and self.naming.otherwise is not None and not self.source.shards:
            for part in self._parts(self._wanted(self.naming.otherwise)):
                found = True
                yield part
        if not found:
            shards = " (of shards: name them, as in 'folder/*.tar')" if not self.source.shards else ""
            raise PlanError(f"{self.source.store} has no pictures to work on{shards}.")

    @staticmethod
    def _wanted(choose: Callable[[str], bool]) -> Callable[[str], bool]:
        return lambda name: is_picture(name) and choose(name)

    def _parts(self, wanted: Callable[[str], bool]) -> Iterator[Part]:
        for place, entries, there in self.source.folders(self.target, wanted):
            self.target.clear_temporaries(place, there)
            try:
                yield self._part(place, entries, there)
            except PlanError as error:
                yield Part(problem=str(error))

    def _part(self, place: str, entries: list[Entry], there: Listing) -> Part:
        if self.source.shards:
            return self._shards(place, entries, there)
        self._check(place, entries)
        return self._into_shards(place, entries, there) if self.per_shard else self._files(place, place, entries, there)

    def _check(self, place: str, entries: list[Entry]) -> None:
        names = {entry.name for entry in entries}
        base = self.naming.base
        # Names that differ by more than their suffix give outputs that differ.
        if len({base(name) for name in names}) == len(names) and not self._same:
            return
        written = (
            (self.source.store.shown(join(place, entry.name)), name, self.target.shown(join(place, name)))
            for entry in entries
            for name in self.naming.names(base(entry.name))
        )
        check_conflicts(written, names.__contains__ if self._same else lambda _: False)

    def _files(self, place: str, out: str, entries: list[Entry], there: Listing, shard: str = "") -> Part:
        """The files of a folder whose outputs are missing from the folder ``out``; ``there`` lists what it holds."""
        part = Part()
        read = self.source.store.read if self.source.store.here_only else None
        for entry in entries:
            base = self.naming.base(entry.name)
            path = join(place, entry.name)
            if there.files and (outputs := done(self.naming, base, there.files, self.since)) is not None:
                shown = [self.target.shown(join(out, output.name)) for output in outputs]
                part.skipped.append(Skipped(path, entry.size, shown, sum(o.size or 0 for o in outputs)))
                continue
            data = None if read is None else read(path)
            part.files.append(File(self.number, path, entry.size, join(out, base), shard, data))
            self.number += 1
        return part

    def _marks(self, place: str) -> set[str]:
        """The marks of finished shards."""
        listing = self.target.list(join(f"{RECORDS}/shards", place))
        return {name for name, entry in listing.files.items() if entry.newer(self.since)}

    def _shards(self, place: str, entries: list[Entry], there: Listing) -> Part:
        """The shards that are not finished; a finished one has a mark."""
        part = Part()
        marks = self._marks(place)
        for entry in entries:
            path = join(place, entry.name)
            if f"{entry.name}.done" in marks and (not self.per_shard or entry.name in there.files):
                outputs = [self.target.shown(path if self.per_shard else path.removesuffix(SHARD_SUFFIX))]
                part.skipped.append(Skipped(path, entry.size, outputs, 0))
                continue
            base = f"{RECORDS}/parts/{path}" if self.per_shard else path[: -len(SHARD_SUFFIX)]
            part.files.append(File(self.number, path, entry.size, base, path))
            part.shards.append(Shard(path, f"{path}.done", base if self.per_shard else None))
            self.number += 1
        return part

    def _into_shards(self, place: str, entries: list[Entry], there: Listing) -> Part:
        """Shards of a folder's files, in their order; a mark names the files that a shard was made of."""
        part = Part()
        marks = self._marks(place)
        for count, start in enumerate(range(0, len(entries), self.per_shard)):
            members = entries[start : start + self.per_shard]
            digest = zlib.crc32("\n".join(entry.name for entry in members).encode("utf-8", "surrogateescape"))
            name = f"{count:06d}{SHARD_SUFFIX}"
            mark = f"{name}-{digest:08x}-{len(members)}.done"
            if mark in marks and name in there.files:
                shown = [self.target.shown(join(place, name))]
                part.skipped += [Skipped(join(place, entry.name), entry.size, shown, 0) for entry in members]
                continue
            shard = join(place, name)
            folder = f"{RECORDS}/parts/{shard}-{digest:08x}"
            made = self._files(place, folder, members, self.target.list(folder), shard)
            part.skipped += made.skipped
            part.files += made.files
            part.shards.append(Shard(shard, join(place, mark), folder))
        return part


def done(naming: Naming, base: str, there: Mapping[str, Entry], since: float) -> list[Entry] | None:
    """The outputs of a file, if all are among those ``there``, none of them empty, or older than ``since``."""
    found = []
    for ending in naming.endings:
        entry = there.get(base + ending)
        found.append(entry if entry is not None and entry.size and entry.newer(since) else None)
    first = [entry for entry in found[: naming.alternatives] if entry]
    rest = [entry for entry in found[naming.alternatives :] if entry]
    return [*first, *rest] if first and len(rest) == len(found) - naming.alternatives else None


def units(files: Iterable[File], workers: int) -> Iterator[list[File]]:
    """The files in tasks: as many as `UNIT_FILES` and `UNIT_BYTES` allow, and fewer where they are few."""
    ahead: list[File] = []
    found = iter(files)
    for file in found:
        ahead.append(file)
        if len(ahead) >= _LOOK_AHEAD:
            break
    most = max(1, min(UNIT_FILES, len(ahead) // (4 * max(1, workers))))
    unit: list[File] = []
    held = 0

    def all_files() -> Iterator[File]:
        yield from ahead
        yield from found

    for file in all_files():
        size = file.size or 0
        if unit and (len(unit) >= most or held + size > UNIT_BYTES):
            yield unit
            unit, held = [], 0
        unit.append(file)
        held += size
    if unit:
        yield unit
