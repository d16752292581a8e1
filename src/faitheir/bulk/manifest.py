"""The table of what was done: Parquet files in TARGET, each whole, one after another while a run goes on."""

import time
from typing import Any

from faitheir.bulk.planning import RECORDS, Skipped
from faitheir.bulk.stores import Store

#: Rows and seconds after which a file is written. The seconds grow with a run: what a killed driver takes with it is
#: bounded, and so is the number of files of a run of days.
_ROWS = 200_000
_SECONDS, _MOST_SECONDS, _GROWTH = 10.0, 300.0, 1.5

FIGURES = ("bits_per_pixel", "psnr", "ssim", "psnr_bicubic", "psnr_thumbnail")
STEPS = ("read", "decode", "model", "encode", "write")


def schema() -> Any:
    """The columns; a row for each file that was done, skipped or failed."""
    import pyarrow as pa

    return pa.schema(
        [
            ("path", pa.string()),
            ("status", pa.dictionary(pa.int8(), pa.string())),
            ("error", pa.string()),
            ("notes", pa.string()),
            ("outputs", pa.list_(pa.string())),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bytes_before", pa.int64()),
            ("bytes_after", pa.int64()),
            *((f"seconds_{step}", pa.float32()) for step in STEPS),
            *((figure, pa.float32()) for figure in FIGURES),
            ("model", pa.dictionary(pa.int16(), pa.string())),
            ("weights", pa.dictionary(pa.int16(), pa.string())),
            ("settings", pa.dictionary(pa.int16(), pa.string())),
            ("run", pa.dictionary(pa.int16(), pa.string())),
        ]
    )


class Manifest:
    """Rows on their way into TARGET's manifest."""

    def __init__(self, target: Store, run: str, settings: str) -> None:
        self._target, self._run, self._settings = target, run, settings
        self._schema = schema()
        self._columns: dict[str, list[Any]] = {}
        self._tables: list[Any] = []
        self._held = self._written = 0
        self._wait, self._since = _SECONDS, time.monotonic()
        self._rows: list[dict[str, Any]] = []

    @property
    def pattern(self) -> str:
        """What all of TARGET's manifest files are called, for programs that read them together."""
        return self._target.shown(f"{RECORDS}/manifest/*.parquet")

    def add(self, row: dict[str, Any]) -> None:
        """A file that was done or failed."""
        self._rows.append(
            row | {"path": _text(row["path"]), "outputs": [_text(name) for name in row.get("outputs", ())]}
        )
        if len(self._rows) >= 1024:
            self._pack()
        if self._held + len(self._rows) >= _ROWS or time.monotonic() - self._since > self._wait:
            self.flush()

    def skipped(self, files: list[Skipped], source: Store) -> None:
        """Files whose outputs exist."""
        import pyarrow as pa

        if not files:
            return
        count = len(files)
        root = source.shown("x")[:-1]
        known = {
            "path": pa.array([_text(root + file.path) for file in files], pa.string()),
            "outputs": pa.array([[_text(name) for name in file.outputs] for file in files], pa.list_(pa.string())),
            "bytes_before": pa.array([file.size for file in files], pa.int64()),
            "bytes_after": pa.array([file.bytes_after for file in files], pa.int64()),
        }
        constant = {"status": "skipped", "settings": self._settings, "run": self._run}
        arrays = []
        for column in self._schema:
            if column.name in known:
                arrays.append(known[column.name])
            elif column.name in constant:
                one = pa.DictionaryArray.from_arrays(
                    pa.repeat(pa.scalar(0, column.type.index_type), count), [constant[column.name]]
                )
                arrays.append(one)
            else:
                arrays.append(pa.nulls(count, column.type))
        self._tables.append(pa.Table.from_arrays(arrays, schema=self._schema))
        self._held += count
        if self._held >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pack()
        self._since = time.monotonic()
        if not self._held:
            return
        self._wait = min(self._wait * _GROWTH, _MOST_SECONDS)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(self._tables).unify_dictionaries(), sink, compression="zstd")
        name = f"{RECORDS}/manifest/{self._run}-{self._written:06d}.parquet"
        self._target.write(name, sink.getvalue().to_pybytes())
        self._written += 1
        self._tables, self._held = [], 0

    def _pack(self) -> None:
        import pyarrow as pa

        if self._rows:
            both = {"settings": self._settings, "run": self._run}
            self._tables.append(pa.Table.from_pylist([row | both for row in self._rows], schema=self._schema))
            self._held += len(self._rows)
            self._rows = []


def _text(name: str | None) -> str | None:
    """A name that Parquet can hold: of a local file it may not be Unicode."""
    return name if name is None or name.isascii() else name.encode("utf-8", "backslashreplace").decode()
