"""What runs on the workers: decoding, the model, and encoding with writing.

Where the CPU computes, a process does all three for its files, each in threads of its own (`Whole`), and no pixels
leave it. For GPUs each is a process of its own (`decode`, `Model`, `finish`), since a GPU waits for many CPUs. Between
processes go rows of one column, "items": a list of `Item`, pickled, whose pictures together have at most
`BATCH_PIXELS`, or one picture that has more. A file's failure travels on as its item's; what kills a process is left to
Ray.
"""

import io
import pickle
import tarfile
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from faitheir.batches import (
    Naming,
    RestoredFormat,
    ThumbnailFiles,
    memory_for,
    open_pipelines,
    pipeline_to_restore,
    restored_size,
)
from faitheir.bulk.planning import RECORDS, File, Shard, Verb, done
from faitheir.bulk.stores import Entry, Store, TransientError, join
from faitheir.errors import disk_full, one_line, reason
from faitheir.files import THUMBNAIL_MARK, is_picture
from faitheir.images import UNTRUSTED_PIXELS_PER_BYTE, ExifMode, Picture, decode_picture, encode_picture
from faitheir.thumbnail import Thumbnail

if TYPE_CHECKING:
    import pyarrow as pa

    from faitheir.pipeline import FaithEIRPipeline, Pipelines

T = TypeVar("T")

#: Pixels that go between processes together: those of two tiles. Each such batch costs Ray's driver some milliseconds.
BATCH_PIXELS = 1 << 23
#: Files that a task reads or writes at a time where the store is not local.
_CONNECTIONS = 8
#: What the library warned of in the step that this thread is in.
_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


@dataclass(frozen=True)
class Work:
    """What workers need to know: the same for all files of a run."""

    verb: Verb
    source: Store
    target: Store
    naming: Naming
    files: ThumbnailFiles
    restored_format: RestoredFormat
    restored_quality: int | None
    exif: ExifMode
    scale: str | None
    options: dict[str, Any]
    """Options of the model, for `open_pipelines`."""
    max_pixels: int
    threads: int
    shards: bool = False
    """Whether the source's files are shards."""
    since: float = 0.0
    """Outputs in TARGET that are older are of other settings."""
    dry: bool = False
    """Whether nothing is to be written."""


@dataclass
class Item:
    """A file on its way."""

    number: int
    base: str
    row: dict[str, Any]
    """What the manifest will say of it."""
    content: Any = None
    shard: str = ""
    member: str | None = None
    """Its name in a shard of the source."""
    transient: bool = False
    """Whether it failed for a reason that may pass."""
    full: bool = False
    """Whether TARGET takes nothing more."""
    members: int | None = None
    """How many pictures a shard has. Set only in the item that ends the shard, which holds no picture."""
    outputs: list[tuple[str, bytes]] = field(default_factory=list)
    """What there is to write, by the endings of names."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; what goes wrong in it becomes the item's failure, and the library's warnings become notes."""
        started = time.perf_counter()
        before = _noted.set([])
        try:
            yield
        except Exception as error:  # of any kind: it is this file's failure
            self.fail(error)
        if notes := _noted.get():
            self.row["notes"] = "; ".join(filter(None, [self.row.get("notes"), *notes]))
        _noted.reset(before)
        self.row[f"seconds_{name}"] = self.row.get(f"seconds_{name}", 0.0) + time.perf_counter() - started

    def fail(self, error: BaseException) -> None:
        """Say that it failed, and why."""
        self.row |= {"status": "failed", "error": reason(error, "; a smaller --tile needs less")}
        self.transient = isinstance(error, TransientError)
        self.full = disk_full(error)
        self.content, self.outputs = None, []

    def by(self, pipeline: "FaithEIRPipeline") -> None:
        """Say which model worked on it."""
        self.row |= {"model": pipeline.name, "weights": pipeline.weights}

    @property
    def failed(self) -> bool:
        """Whether there is nothing more to do with it."""
        return self.row.get("status") == "failed"


def _listen() -> None:
    """Have warnings become notes in the rest of this process: Python's own way to catch them is not for threads."""

    def note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        notes = _noted.get()
        if notes is not None and category.__module__.startswith("faitheir"):
            notes.append(one_line(message))

    warnings.showwarning = note
    warnings.simplefilter("always")


def pack(items: list[Item]) -> "pa.Table":
    """A row for a batch of items."""
    return rows([items])


def rows(entries: Iterable[Any]) -> "pa.Table":
    """A row for each."""
    import pyarrow as pa

    return pa.table({"items": pa.array([pickle.dumps(entry, protocol=5) for entry in entries], pa.large_binary())})


def unpack(table: "pa.Table") -> Iterator[list[Any]]:
    """The batches in a table's rows."""
    for value in table.column("items"):
        yield pickle.loads(value.as_buffer())


def one_by_one(table: "pa.Table") -> "Iterator[pa.Table]":
    """Each row as a block: each is a task."""
    for index in range(len(table)):
        yield table.slice(index, 1)


def decode(table: "pa.Table", *, work: Work, guarded: bool) -> "Iterator[pa.Table]":
    """Files read and decoded, batch after batch. ``guarded``: in processes of their own, as files that kill one."""
    _listen()
    for unit in unpack(table):
        yield from map(pack, _batches(_pictures(unit, work, guarded=guarded), _pixels))


def _pictures(unit: list[File], work: Work, *, guarded: bool, ahead: int = 0) -> Iterator[Item]:
    """The files of a unit, read and decoded, so many ahead of what is asked for."""

    def decoded(item: Item) -> Item:
        if item.content is not None:
            with item.step("decode"):
                item.content = _decoded(item.content, item.row["path"], work, guarded=guarded)
                picture = item.content.picture if isinstance(item.content, Thumbnail) else item.content
                item.row |= {"width": picture.width, "height": picture.height}
        return item

    return _ahead(decoded, _contents(unit, work), ahead)


def _batches(items: Iterable[Item], pixels: Callable[[Item], int]) -> Iterator[list[Item]]:
    """The items in batches of at most `BATCH_PIXELS`, or one that has more."""
    batch: list[Item] = []
    held = 0
    for item in items:
        more = pixels(item)
        if batch and held + more > BATCH_PIXELS:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += more
    if batch:
        yield batch


def _pixels(item: Item) -> int:
    """What it counts for: the full-size picture, be it there or to be restored."""
    if isinstance(item.content, Thumbnail):
        width, height = item.content.size or (16 * item.content.picture.width, 16 * item.content.picture.height)
        return width * height
    return item.content.width * item.content.height if isinstance(item.content, Picture) else 0


def _decoded(data: bytes, name: str, work: Work, *, guarded: bool) -> Picture | Thumbnail:
    from faitheir.untrusted import decode_untrusted, decode_untrusted_thumbnail

    limits: dict[str, Any] = {"max_pixels": work.max_pixels}
    thumbnail = work.verb == "upscale"
    if guarded:
        return (decode_untrusted_thumbnail if thumbnail else decode_untrusted)(data, name=name, **limits)
    limits["pixels_per_byte"] = UNTRUSTED_PIXELS_PER_BYTE
    return (
        Thumbnail.decode(data, name=name, **limits) if thumbnail else decode_picture(io.BytesIO(data), name, **limits)
    )


def _contents(unit: list[File], work: Work) -> Iterator[Item]:
    """The files of a unit, read, each as bytes."""
    if work.shards:
        for file in unit:
            yield from _members(file, work)
        return

    def read(file: File) -> Item:
        path = work.source.shown(file.path)
        item = Item(file.number, file.base, {"path": path}, shard=file.shard)
        with item.step("read"):
            item.content = work.source.read(file.path) if file.data is None else file.data
            item.row["bytes_before"] = len(item.content)
        return item

    yield from _ahead(read, unit, _connections(work.source))


def _connections(store: Store) -> int:
    """How many files are read or written ahead: several where the store answers from afar."""
    return 0 if store.local or store.here_only else _CONNECTIONS


def _ahead(function: Callable[[Any], T], items: Iterable[Any], count: int) -> Iterator[T]:
    """The function of each, in order; of so many of them in threads, ahead of what is asked for."""
    if not count:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _members(file: File, work: Work) -> Iterator[Item]:
    """The pictures in a shard whose outputs are not there, then an item that counts them."""
    shard = work.source.shown(file.path)
    count = 0
    last = Item(file.number, file.base, {"path": shard}, shard=file.shard)
    with last.step("read"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard"
        if work.source.local:
            path = Path(work.source.path(file.path))
        else:
            path.write_bytes(work.source.read(file.path))
        listings: dict[str, dict[str, Entry]] = {}
        with tarfile.open(path) as tar:
            members = [m for m in tar if m.isfile() and is_picture(m.name.rpartition("/")[2]) and _safe(m.name)]
            chosen = [m for m in members if work.naming.wanted(m.name)]
            if not chosen and work.naming.otherwise is not None:
                chosen = [m for m in members if work.naming.otherwise(m.name)]
            for member in chosen:
                place, _, name = member.name.rpartition("/")
                base = join(join(file.base, place), work.naming.base(name))
                item = Item(file.number, base, {"path": f"{shard}:{member.name}"}, None, file.shard, member.name)
                where = base.rpartition("/")[0]
                if where not in listings:
                    listings[where] = work.target.list(where).files
                if done(work.naming, base.rpartition("/")[2], listings[where], work.since) is not None:
                    item.row["status"] = "skipped"
                else:
                    with item.step("read"):
                        stream = tar.extractfile(member)
                        assert stream is not None
                        item.content = stream.read()
                        item.row["bytes_before"] = len(item.content)
                count += 1
                yield item
    if not last.failed:
        last.members = count
    yield last


def _safe(name: str) -> bool:
    """Whether a member stays inside the folder that its outputs go to."""
    return not name.startswith("/") and ".." not in name.split("/")


class Model:
    """A process that holds the model, and runs batches of decoded items through it."""

    def __init__(self, work: Work) -> None:
        import torch

        _listen()
        torch.set_num_threads(work.threads)
        self.work = work
        self.pipelines: Pipelines = open_pipelines(work.scale, **work.options, max_pixels=work.max_pixels)
        if work.verb != "upscale" or self.pipelines.model is not None:
            self.pipelines.for_thumbnail()

    def __call__(self, table: "pa.Table") -> "Iterator[pa.Table]":
        """Batches of items; full-size pictures go on one by one."""
        yield from map(pack, self._made(unpack(table)))

    def _made(self, batches: Iterable[list[Item]]) -> Iterator[list[Item]]:
        run = {"downscale": self._downscale, "upscale": self._upscale, "roundtrip": self._round_trip}[self.work.verb]
        for items in batches:
            if rest := [item for item in items if item.content is None]:
                yield rest
            if pictures := [item for item in items if item.content is not None]:
                yield from run(pictures)

    def _downscale(self, items: list[Item]) -> Iterator[list[Item]]:
        first = self.pipelines.for_thumbnail()
        ready = self._at_once(first, items, lambda p, many: p.downscale_pictures(many, exif=self.work.exif))
        for item in items:
            photograph = item.content
            with item.step("model"), memory_for(photograph.width, photograph.height):

                def made(pipeline: "FaithEIRPipeline", item: Item = item, photograph: Picture = photograph) -> None:
                    thumbnail: Thumbnail = ready.pop((id(item), pipeline), None) or pipeline.downscale_picture(
                        photograph, exif=self.work.exif
                    )
                    item.content = thumbnail
                    if self.work.files.budget:  # whether it fits decides on the model
                        item.content = self.work.files.encode(thumbnail)
                    item.by(pipeline)

                self.work.files.first_that_fits(self.pipelines, self.work.scale, made)
        yield items

    def _upscale(self, items: list[Item]) -> Iterator[list[Item]]:
        pipelines: dict[int, FaithEIRPipeline] = {}
        for item in items:
            with item.step("model"):
                pipelines[id(item)] = pipeline_to_restore(self.pipelines, item.content, self.work.scale)
        ready: dict[tuple[int, FaithEIRPipeline], Any] = {}
        for pipeline in dict.fromkeys(pipelines.values()):
            same = [item for item in items if pipelines.get(id(item)) is pipeline]
            ready |= self._at_once(pipeline, same, lambda p, many: p.upscale_thumbnails(many))
        for item in items:
            if not item.failed:
                pipeline = pipelines[id(item)]
                with item.step("model"), memory_for(*restored_size(pipeline, item.content)):
                    made = ready.pop((id(item), pipeline), None)
                    item.content = made or pipeline.upscale_thumbnail(item.content)
                    item.row |= {"width": item.content.width, "height": item.content.height}
                    item.by(pipeline)
            yield [item]

    def _round_trip(self, items: list[Item]) -> Iterator[list[Item]]:
        from faitheir.evaluation.roundtrip import rescale

        for item in items:
            photograph = item.content
            with item.step("model"), memory_for(photograph.width, photograph.height):

                def made(pipeline: "FaithEIRPipeline", item: Item = item, photograph: Picture = photograph) -> None:
                    done = rescale(pipeline, photograph, self.work.files.encode, exif=self.work.exif)
                    item.content = (photograph, done)
                    item.by(pipeline)

                self.work.files.first_that_fits(self.pipelines, self.work.scale, made)
            yield [item]

    @staticmethod
    def _at_once(
        pipeline: "FaithEIRPipeline", items: list[Item], run: "Callable[[FaithEIRPipeline, list[Any]], Iterator[Any]]"
    ) -> "dict[tuple[int, FaithEIRPipeline], Any]":
        """What the model gives for several at once; nothing where that is no faster, or one of them fails.

        On the CPU it is no faster, and each picture alone gives the same bits as `faitheir downscale` and `upscale` do.
        """
        if len(items) < 2 or pipeline.device.type == "cpu":
            return {}
        try:
            made = run(pipeline, [item.content for item in items])
            return {(id(item), pipeline): one for item, one in zip(items, made, strict=True)}
        except Exception:  # of whichever: each alone will tell
            return {}


class Whole(Model):
    """A process that holds the model and does all that there is to do for its files."""

    def __init__(self, work: Work, *, guarded: bool) -> None:
        super().__init__(work)
        self._guarded = guarded
        #: Ray gives a process that it starts anew first what the one before was killed at.
        self._suspicious = _restarted()

    def __call__(self, table: "pa.Table") -> "Iterator[pa.Table]":
        """Files finished, batch after batch. The model stays in this thread, whose memory is used again."""
        # Where the model has one thread, others would only take turns with it.
        threads = self.work.threads if self.work.threads > 1 else 0
        for unit in unpack(table):
            guarded, self._suspicious = self._guarded or self._suspicious, False
            decoded = _pictures(unit, self.work, guarded=guarded, ahead=min(threads, 1))
            made = chain.from_iterable(self._made([item] for item in decoded))
            finished = _finished(made, self.work, threads)
            yield from map(pack, _batches(finished, lambda item: item.row.get("width", 0) * item.row.get("height", 0)))


def _restarted() -> bool:
    """Whether this process of Ray's takes the place of one that was killed."""
    import ray

    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def finish(table: "pa.Table", *, work: Work) -> "Iterator[pa.Table]":
    """Items encoded and written; what is left of each is what the driver keeps account of."""
    _listen()
    for items in unpack(table):
        yield pack(list(_finished(items, work, 0)))


def _finished(items: Iterable[Item], work: Work, threads: int) -> Iterator[Item]:
    encoded = _ahead(lambda item: _encoded(item, work), items, threads)
    return _ahead(lambda item: _written(item, work), encoded, _connections(work.target))


def _encoded(item: Item, work: Work) -> Item:
    if item.content is None:
        return item
    content, item.content = item.content, None
    format_ = work.restored_format
    with item.step("encode"):
        if work.verb == "downscale":
            data, suffix = work.files.encode(content) if isinstance(content, Thumbnail) else content
            item.outputs = [(f"{THUMBNAIL_MARK}.{suffix}", data)]
        elif work.verb == "upscale":
            item.outputs = [(work.naming.endings[0], encode_picture(content, format_, quality=work.restored_quality))]
        else:
            from faitheir.evaluation.roundtrip import compare

            photograph, rescaled = content
            with memory_for(photograph.width, photograph.height):
                figures, restored, _, sheet = compare(photograph, rescaled, format_, quality=work.restored_quality)
            item.row |= figures
            thumbnail = (f"{THUMBNAIL_MARK}.{rescaled.format}", rescaled.data)
            item.outputs = [(work.naming.endings[-2], restored), (work.naming.endings[-1], sheet), thumbnail]
    return item


def _written(item: Item, work: Work) -> Item:
    if item.outputs and not item.failed:
        with item.step("write"):
            if not (work.dry or work.target.here_only):
                for ending, data in item.outputs:
                    work.target.write(item.base + ending, data)
            written = [ending for ending, _ in item.outputs]
            if work.naming.alternatives > 1 and not work.dry:
                others = work.naming.endings[: work.naming.alternatives]
                work.target.remove([item.base + ending for ending in others if ending not in written])
            item.row |= {
                "status": "done",
                "outputs": [work.target.shown(item.base + ending) for ending in written],
                "bytes_after": sum(len(data) for _, data in item.outputs),
            }
    if work.dry or not work.target.here_only:
        item.outputs = []
    return item


def close_shard(table: "pa.Table", *, target: Store) -> "Iterator[pa.Table]":
    """Pack the outputs of each shard into it, if it is to be one, and mark it; (path, error or None) for each."""
    for (shard,) in unpack(table):
        error = None
        try:
            _close_shard(shard, target)
        except Exception as caught:
            error = reason(caught)
        yield rows([(shard.path, error)])


def _close_shard(shard: Shard, target: Store) -> None:
    names = [] if shard.parts is None else sorted(_below(target, shard.parts))
    if shard.parts is not None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                data = target.read(f"{shard.parts}/{name}")
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        target.write(shard.path, buffer.getvalue())
    target.write(f"{RECORDS}/shards/{shard.mark}", b"done\n")
    target.remove([f"{shard.parts}/{name}" for name in names])


def _below(target: Store, folder: str) -> Iterator[str]:
    listing = target.list(folder)
    yield from listing.files
    for name in listing.folders:
        yield from (f"{name}/{file}" for file in _below(target, f"{folder}/{name}"))
