"""Tables: what is marked best, what is missing and why, and every name printed as it is."""

import csv
import html.parser
import io
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faitheir.comparison.tables import (
    Table,
    differences,
    pictures_csv,
    shown,
    summary_csv,
    tables_of,
    tabulate,
    to_html,
    to_latex,
    to_markdown,
    write_tables,
)
from faitheir.errors import EvaluationError
from faitheir.evaluation.metrics import METRICS
from faitheir.evaluation.results import PictureResult, SystemResult
from faitheir.evaluation.statistics import interval

RANKED = [name for name, metric in METRICS.items() if metric.direction]


def system(name: str, /, kind: str = "model", scale: int | None = 16, **summary: float) -> SystemResult:
    return SystemResult(name, kind, "paper", scale, summary=summary)  # type: ignore[arg-type]


def marked(table: Table, mark: str) -> set[str]:
    """The labels of rows with a mark in their first column."""
    return {row[0].text for _, rows in table.blocks for row in rows if row[1].mark == mark}


def values(name: str) -> st.SearchStrategy[list[float]]:
    """Of a metric: many that are printed alike among them."""
    step = 10 ** -METRICS[name].digits
    return st.lists(st.one_of(st.integers(0, 6).map(lambda k: k * step * 0.5), st.floats(0, 1e6)), min_size=1)


@given(data=st.data(), name=st.sampled_from(RANKED))
def test_best_and_second_best_are_those_of_the_printed_values(data: st.DataObject, name: str) -> None:
    numbers = data.draw(values(name))
    table = tabulate([system(f"s{i}", **{name: value}) for i, value in enumerate(numbers)], [name])
    printed = [float(shown(value, name).replace(",", "")) for value in numbers]
    ranks = sorted(set(printed), reverse=METRICS[name].direction == "higher")
    best = {f"s{i}" for i, value in enumerate(printed) if value == ranks[0]}
    second = {f"s{i}" for i, value in enumerate(printed) if len(ranks) > 1 and value == ranks[1]}
    assert marked(table, "best") == (best if len(ranks) > 1 else set())
    assert marked(table, "second") == (second if len(ranks) > 1 and len(numbers) > 2 else set())


@given(
    measured=st.lists(st.floats(0, 100), min_size=1, max_size=5),
    published=st.lists(st.floats(0, 100), max_size=4),
    order=st.randoms(use_true_random=False),
)
@example(measured=[20.0, 21.0], published=[99.0], order=None)  # type: ignore[arg-type]
def test_published_rows_stand_apart_and_change_no_mark(measured: list[float], published: list[float], order) -> None:  # type: ignore[no-untyped-def]
    ours = [system(f"m{i}", psnr=value) for i, value in enumerate(measured)]
    theirs = [system(f"p{i}", "published", psnr=value) for i, value in enumerate(published)]
    mixed = [*theirs, *ours]
    if order is not None:
        order.shuffle(mixed)
    alone, together = tabulate(ours, ["psnr"]), tabulate(mixed, ["psnr"])
    for mark in ("best", "second"):
        assert marked(alone, mark) == {label for label in marked(together, mark) if label.startswith("m")}
    kinds = [{row[0].text[0] for row in rows} for _, rows in together.blocks]
    assert kinds == [{"m"}, {"p"}][: 1 + bool(theirs)]
    if theirs:
        assert together.blocks[-1][0].startswith("Published, not measured")


def test_both_directions_and_two_rows() -> None:
    rows = [system("a", psnr=20, lpips_vgg=0.5), system("b", psnr=21, lpips_vgg=0.6)]
    first, second = tabulate(rows, ["psnr", "lpips_vgg"]).blocks[0][1]
    assert [cell.mark for cell in first[1:]] == [None, "best"]
    assert [cell.mark for cell in second[1:]] == ["best", None]


def test_infinite_values_are_printed_and_ranked_and_minus_nothing_is_nothing() -> None:
    table = tabulate([system("a", psnr=float("inf")), system("b", psnr=30), system("c", psnr=-0.0001)])
    assert [row[1].text for row in table.blocks[0][1]] == ["∞", "30.00", "0.00"]
    assert marked(table, "best") == {"a"}
    assert r"\textbf{$\infty$}" in to_latex(table)


def test_blocks_hold_only_what_can_be_compared() -> None:
    other = {"dataset": "DIV2K-val", "files": "ab12"}
    rows = [
        system("16", psnr=20),
        system("32", scale=32, psnr=19),
        SystemResult("luma", "model", "luma", 16, summary={"psnr": 25}),
        SystemResult("other", "model", "paper", 16, summary={"psnr": 30}, about=other),
        system("16 again", psnr=21),
    ]
    table = tabulate(rows)
    assert [[row[0].text for row in rows] for _, rows in table.blocks] == [
        ["16", "16 again"],
        ["32"],
        ["luma"],
        ["other"],
    ]
    assert marked(table, "best") == {"16 again"}
    assert table.blocks[2][0] == "Measured, protocol luma, 16x"
    assert "DIV2K-val" in table.blocks[3][0]


def test_a_codec_without_a_scale_joins_the_only_scale_there_is() -> None:
    codec = system("jpeg", "codec", None, psnr=18)
    assert len(tabulate([system("a", psnr=20), codec]).blocks) == 1
    assert len(tabulate([system("a", psnr=20), codec, system("b", scale=32, psnr=19)]).blocks) == 3


def test_codecs_held_to_a_quality_are_compared_by_their_bytes_only() -> None:
    ours = system("nano-x16", bytes=2000, psnr=22)
    about = {"codec": "jpeg", "held_to": "psnr", "target": "nano-x16"}
    reach = [
        SystemResult("jpeg", "codec", "paper", 16, summary={"bytes": 2500, "psnr": 22.01}, about=about),
        SystemResult("avif", "codec", "paper", 16, summary={"bytes": 1500, "psnr": 22.2}, about=about),
    ]
    table = tabulate([ours, system("bicubic", "resampling", bytes=1900, psnr=21), *reach], ["psnr", "bytes"])
    (_, main), (title, held) = table.blocks
    assert [row[0].text for row in main] == ["nano-x16", "bicubic"]
    assert title == "Measured, protocol paper, 16x, lowest bytes that reach the PSNR of nano-x16"
    assert [row[0].text for row in held] == ["nano-x16", "jpeg", "avif"]
    assert [row[1].mark for row in held] == [None] * 3
    assert [row[2].mark for row in held] == ["second", None, "best"]


def test_a_codec_that_did_not_hold_to_its_bytes_takes_no_part() -> None:
    reason = "JPEG cannot be as small as that for 3 of 5 photographs."
    over = SystemResult("jpeg", "codec", "paper", 16, summary={"bytes": 9000, "psnr": 30}, warnings={"bytes": reason})
    table = tabulate([over, system("a", psnr=20, bytes=2000), system("b", psnr=21, bytes=2100)], ["psnr", "bytes"])
    assert marked(table, "best") == {"b"}
    cell = table.blocks[0][1][0][2]
    assert (cell.text, cell.caution) == ("9,000", True)
    assert table.footnotes[cell.notes[0] - 1] == f"Caution: {reason}"


def test_what_is_missing_says_why_once_for_the_column_and_else_for_the_cell() -> None:
    why = "weights are not here; give a path with --weights."
    nobody = [SystemResult(n, "model", "paper", 16, summary={"psnr": 1.0}, missing={"dists": why}) for n in "ab"]
    table = tabulate(nobody, ["dists"])
    assert table.footnotes == (why,)
    assert table.head[1].notes == (1,)
    assert [row[1].notes for row in table.blocks[0][1]] == [(), ()]

    table = tabulate([*nobody, system("c", dists=0.2)], ["dists"])
    assert table.head[1].notes == ()
    assert [row[1].notes for row in table.blocks[0][1]] == [(1,), (1,), ()]

    table = tabulate([system("d", psnr=1.0), system("e", seconds_up=1.0), system("p", "published", psnr=2.0)])
    assert table.footnotes == ("Not measured for this system.", "Not given where it was published.")


def test_no_dash_is_without_its_reason() -> None:
    rows = [system("a", psnr=float("nan"), fid=3.0), system("b", ssim=0.5), system("p", "published", kid=0.1)]
    table = tabulate(rows)
    dashes = [cell for _, rows in table.blocks for row in rows for cell in row if cell.text == "–"]  # noqa: RUF001
    assert len(dashes) == 3 * 4 - 3
    assert all(cell.notes for cell in dashes)
    assert "Not defined for these pictures." in table.footnotes


def test_warnings_and_failed_pictures_stand_in_the_table_itself() -> None:
    pictures = (PictureResult("p/1", 20, 30, {"psnr": 20.0}), PictureResult("p/2", 0, 0, error="it is damaged."))
    few = "20 patches are too few for FID."
    result = SystemResult(
        "a", "model", "paper", 16, pictures, {"psnr": 20.0, "fid": 9.0}, warnings={"fid": few}, note="Trained by us."
    )
    table = tabulate([result, system("b", psnr=19, fid=8)])
    texts = {"md": to_markdown(table), "tex": to_latex(table), "html": to_html(table)}
    for text in texts.values():
        assert few in text
        assert "only 1 of 2 pictures; failed: p/2 (it is damaged.)" in text
        assert "Trained by us." in text
    fid = next(line for line in texts["md"].splitlines() if line.startswith("| a"))
    assert re.search(r"9\.00<sup>⚠\d</sup>", fid)
    assert re.search(r"9\.00\\textsuperscript\{!\d\}", texts["tex"])
    assert 'aria-label="caution"' in texts["html"]


class _Cells(html.parser.HTMLParser):
    """The texts of a table's cells, and whether they are marked."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.inside = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


HOSTILE = '<script>alert("1")</script> | a_b*c* \\x & 100% $x$ #1 {y} ~^ [l](u) `q`\nnext'


def test_every_name_and_note_is_printed_as_it_is() -> None:
    hostile = SystemResult(HOSTILE, "model", "paper", 16, summary={"psnr": 20.0}, note=HOSTILE)
    table = tabulate([hostile, system("b", psnr=19)], caption=HOSTILE)

    reader = _Cells()
    reader.feed(to_html(table))
    assert "script" not in reader.tags
    assert HOSTILE + "1" in reader.cells  # with its footnote's number
    assert to_html(table).count("&lt;script&gt;") == 3

    text = to_markdown(table)
    assert "<script" not in re.sub(r"\\<", "", text)
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert len(rows) == 2 + 1 + 2

    latex = to_latex(table)
    escaped = latex.replace(r"\\", "")
    rows = [row for row in latex.splitlines() if row.endswith(r"\\") and not row.startswith(r"\multicolumn")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1, 1]
    assert r"100\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{}" in latex
    assert "-{}-weights" in to_latex(tabulate([system("a", psnr=1), system("--weights", psnr=2)]))
    assert not re.search(r"(?<!\\)[#%]", escaped.split(r"\begin{table}")[1])


def test_the_formats_mark_alike() -> None:
    table = tabulate([system("a", psnr=20), system("b", psnr=22), system("c", psnr=21)])
    assert "| b | **22.00** |" in to_markdown(table)
    assert "| c | <u>21.00</u> |" in to_markdown(table)
    assert r"b & \textbf{22.00} \\" in to_latex(table)
    assert r"c & \underline{21.00} \\" in to_latex(table)
    reader = _Cells()
    reader.feed(to_html(table))
    assert {"22.00 (best)", "21.00 (second best)", "20.00"} <= set(reader.cells)


def test_the_smallest_table_of_each_format() -> None:
    table = tabulate([system("a", psnr=20.0, bytes=1234.5)], caption="One")
    assert to_markdown(table) == (
        "One\n\n"
        "| System | PSNR (dB) ↑ | Bytes ↓ |\n"
        "| --- | ---: | ---: |\n"
        "| *Measured, protocol paper, 16x* |  |  |\n"
        "| a | 20.00 | 1,234 |\n"
    )
    assert to_latex(table).splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{One}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"System & PSNR (dB) $\uparrow$ & Bytes $\downarrow$ \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\emph{Measured, protocol paper, 16x}} \\",
        r"a & 20.00 & 1{,}234 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    psnr=st.floats(allow_nan=False),
    error=st.none() | st.just("it is, alas, damaged"),
)
def test_csv_keeps_names_and_full_precision(name: str, psnr: float, error: str | None) -> None:
    pictures = (PictureResult(name, 3, 4, {"psnr": psnr}, error),)
    result = SystemResult(name, "model", "paper", 16, pictures, {"psnr": psnr}, note=name)
    (row,) = csv.DictReader(io.StringIO(summary_csv([result]), newline=""))
    assert (row["system"], float(row["psnr"]), row["note"]) == (name, psnr, name)
    assert (row["pictures"], row["failed"], row["scale"]) == ("1", str(int(error is not None)), "16")
    (row,) = csv.DictReader(io.StringIO(pictures_csv([result]), newline=""))
    assert (row["picture"], float(row["psnr"]), row["error"]) == (name, psnr, error or "")


def test_csv_leaves_empty_what_is_not_there() -> None:
    rows = list(csv.DictReader(io.StringIO(summary_csv([system("a", psnr=1.5), system("b", ssim=0.5)]))))
    assert [(row["psnr"], row["ssim"]) for row in rows] == [("1.5", ""), ("", "0.5")]


def test_columns_can_be_chosen_and_unknown_ones_are_refused() -> None:
    rows = [system("a", psnr=1.0, ssim=0.5, theirs=3.0)]
    assert [cell.text for cell in tabulate(rows).head] == ["System", "PSNR (dB)", "SSIM", "theirs"]
    assert [cell.text for cell in tabulate(rows, ["ssim", "psnr"]).head] == ["System", "SSIM", "PSNR (dB)"]
    with pytest.raises(EvaluationError, match="there is no metric 'pnsr'"):
        tabulate(rows, ["pnsr"])


def test_all_tables_are_written(tmp_path: Path) -> None:
    paths = write_tables(tmp_path, [system("a", psnr=1.0)])
    assert [path.name for path in paths] == ["results.md", "results.tex", "results.csv", "pictures.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert "| a | 1.00 |" in paths[0].read_text(encoding="utf-8")


# ----- how far means can be trusted


def measured(name: str, kind: str, psnr: list[float]) -> SystemResult:
    pictures = tuple(PictureResult(f"p{i}", 9, 9, {"psnr": value}) for i, value in enumerate(psnr))
    return SystemResult(name, kind, "paper", 16, pictures, {"psnr": sum(psnr) / len(psnr)})  # type: ignore[arg-type]


def test_intervals_stand_behind_means_in_every_format() -> None:
    result = measured("a", "model", [20.0, 21.0, 22.0, 25.0])
    table = tabulate([result, system("b", psnr=21)])
    low, high = interval((20.0, 21.0, 22.0, 25.0)) or (0, 0)
    assert 20 < low < 22 < high < 25
    brackets = f"[{low:.2f}, {high:.2f}]"
    assert f"| a | **22.00** <sub>{brackets.replace('[', chr(92) + '[').replace(']', chr(92) + ']')}</sub> |" in (
        to_markdown(table)
    )
    assert rf"a & \textbf{{22.00}} {{\scriptsize {brackets}}} \\" in to_latex(table)
    assert f'</strong> <small class="interval">{brackets}</small></td>' in to_html(table)
    assert table.blocks[0][0].endswith("95 % bootstrap intervals in brackets")
    assert table.blocks[0][1][1][1].interval == ""  # of a mean alone nothing is known
    (row,) = csv.DictReader(io.StringIO(summary_csv([result])))
    assert (float(row["psnr_low"]), float(row["psnr_high"])) == (low, high)


def test_differences_from_the_first_model() -> None:
    ours = measured("ours", "model", [20.0, 21.0, 22.0, 23.0, 24.0, 25.0])
    better = measured("better", "codec", [21.5, 22.0, 23.5, 24.0, 25.5, 26.0])
    other = measured("other", "resampling", [20.5, 20.5, 22.5, 22.5, 24.5, 24.5])
    table = differences([other, ours, better, system("p", "published", psnr=99)])
    assert table is not None
    ((title, rows),) = table.blocks
    assert title.endswith("minus ours")
    assert [row[0].text for row in rows] == ["other", "better"]
    assert [row[1].text for row in rows] == ["0.00", "+1.25"]
    assert rows[0][1].interval.endswith("p = 1.000")
    assert re.fullmatch(r"\[1\.\d\d, 1\.\d\d\], p = 0\.031", rows[1][1].interval)  # 2 of 64 signs
    assert differences([other, better]) is None  # without a model
    assert differences([ours, system("b", psnr=3)]) is None
    assert "Differences, picture by picture" in "\n".join(map(to_markdown, tables_of([ours, better])))
