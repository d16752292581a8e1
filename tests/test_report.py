"""The report: one file that loads nothing, and that a real browser shows and lets people use."""

import html.parser
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Screen
from command import names, ok, refused
from faitheir.comparison.report import write_report
from faitheir.errors import EvaluationError, StorageError
from faitheir.evaluation.results import PictureResult, SystemResult, write_result
from faitheir.images import UInt8Array, read_picture
from measured import measure

HOSTILE = "<img src=x onerror=hacked=1>'\"&</script><script>hacked=1<!--"
NAMES = {"waves": (300, 200), "long": (1100, 150), "deep/small": (70, 45), HOSTILE: (160, 120)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[SystemResult]:
    """Of two measured systems, one of which failed for a picture, and of a published one; hostile names among them."""
    bicubic, jpeg = measure(tmp_path_factory.mktemp("measured"), NAMES)
    failed = PictureResult("waves", 0, 0, error="waves.png is damaged; use another copy.")
    jpeg = replace(jpeg, system=HOSTILE, pictures=(failed, *jpeg.pictures[1:]), missing={"dists": HOSTILE})
    bicubic = replace(bicubic, missing={"dists": HOSTILE}, about={"device": HOSTILE})
    published = SystemResult("SeD", "published", "paper", 16, summary={"psnr": 20.92, "dists": 0.216}, note=HOSTILE)
    return [bicubic, jpeg, published]


class Page(html.parser.HTMLParser):
    """The elements of a page, its data, and the text of its lists."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.lasttag == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def report(path: Path, results: list[SystemResult], **options: Any) -> Page:
    write_report(path, results, progress=False, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_only_its_own_script(results: list[SystemResult], tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", results)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(", "".join(page.scripts[1:]))


def test_every_name_is_data_and_text(results: list[SystemResult], tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", results, title=HOSTILE)
    assert {picture["name"] for picture in page.data["pictures"]} == set(NAMES)
    assert page.data["systems"] == ["bicubic", HOSTILE]
    assert not [attributes for tag, attributes in page.elements if tag == "img" and "onerror" in attributes]
    # Title twice, system in table and list, device, notes: each as text.
    assert page.text.count(HOSTILE) >= 7


def test_the_worst_and_the_best_are_in_it_and_the_others_named(results: list[SystemResult], tmp_path: Path) -> None:
    values = sorted((picture.values["psnr"], picture.picture) for picture in results[0].pictures)
    page = report(tmp_path / "report.html", results, pictures=2, sort="psnr")
    assert [picture["name"] for picture in page.data["pictures"]] == [values[0][1], values[-1][1]]
    assert "2 pictures measured, but not in this page" in page.text
    for value, name in values[1:3]:
        assert f"{name}: {value:.2f} dB" in page.text
    # Of the bytes too, lower ones are better.
    stored = sorted((picture.values["bytes"], picture.picture) for picture in results[0].pictures)
    page = report(tmp_path / "report.html", results, pictures=1, sort="bytes")
    assert [picture["name"] for picture in page.data["pictures"]] == [stored[-1][1]]


def test_the_page_is_bounded(results: list[SystemResult], tmp_path: Path) -> None:
    whole = report(tmp_path / "whole.html", results)
    empty = report(tmp_path / "empty.html", results, max_bytes=0)
    assert (len(whole.data["pictures"]), len(empty.data["pictures"])) == (4, 0)
    assert "There are no pictures to show." in empty.text
    # What is around the pictures does not grow with them.
    around = (tmp_path / "empty.html").stat().st_size
    half = ((tmp_path / "whole.html").stat().st_size - around) // 2
    some = report(tmp_path / "some.html", results, max_bytes=half)
    assert 1 <= len(some.data["pictures"]) < 4
    assert (tmp_path / "some.html").stat().st_size < around + half + 20_000


def test_large_pictures_are_cut_and_not_reduced(results: list[SystemResult], tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", results)
    (entry,) = (picture for picture in page.data["pictures"] if picture["name"] == "long")
    assert (entry["width"], entry["height"]) == (1100, 150)
    assert entry["window"][1:] == [0, 1024, 150]
    assert 0 <= entry["window"][0] <= 1100 - 1024
    assert entry["thumbnails"]["0"]["size"] == [69, 10]
    assert entry["thumbnails"]["0"]["covers"] == [1104, 160]


def test_what_failed_or_is_gone_is_said(results: list[SystemResult], tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", results)
    (entry,) = (picture for picture in page.data["pictures"] if picture["name"] == "waves")
    assert entry["notes"] == {"1": "waves.png is damaged; use another copy."}
    assert "1 picture failed" in page.text
    assert "waves: waves.png is damaged; use another copy." in page.text

    first, *rest = results[0].pictures
    gone = replace(first, restored=str(tmp_path / "gone.png"))
    page = report(tmp_path / "report.html", [replace(results[0], pictures=(gone, *rest))])
    (entry,) = (picture for picture in page.data["pictures"] if picture["name"] == "waves")
    assert "gone.png does not exist" in entry["notes"]["0"]

    gone = replace(first, original=str(tmp_path / "moved.png"))
    page = report(tmp_path / "report.html", [replace(results[0], pictures=(gone, *rest))])
    assert len(page.data["pictures"]) == 3
    assert "1 picture could not be shown" in page.text
    assert "moved.png does not exist" in page.text


def test_odd_inputs_have_their_page_or_one_sentence(results: list[SystemResult], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = report(tmp_path / "report.html", results[2:])
    assert page.data["pictures"] == []
    assert "Not drawn: there is nothing to draw" in page.text
    infinite = replace(results[0].pictures[0], values={"psnr": float("inf"), "ssim": float("nan")})
    page = report(tmp_path / "report.html", [replace(results[0], pictures=(infinite,))])
    assert page.data["pictures"][0]["values"] == {"0": {"psnr": "inf"}}
    with pytest.raises(EvaluationError, match="cannot be sorted by 'fid'; choose from psnr, ssim"):
        report(tmp_path / "other.html", results, sort="fid")
    with pytest.raises(StorageError, match="is not a folder"):
        report(tmp_path / "no" / "report.html", results)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_without_matplotlib_the_page_says_so(
    results: list[SystemResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = report(tmp_path / "report.html", results)
    assert "Not drawn: Plots need matplotlib: pip install 'faitheir[eval]'." in page.text
    assert len(page.data["pictures"]) == 4


def test_results_are_shown_again_from_their_files(results: list[SystemResult], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made, out = tmp_path / "made", tmp_path / "out"
    made.mkdir()
    for number, result in enumerate(results):
        write_result(made / f"{2 - number}.json", result)
    arguments = ("report", made / "2.json", made, "-o", out, "--metrics", "ssim,psnr", "--title", "Again")
    text = ok(*arguments, "--crop", "waves@10,20", "--crop", "long", "--crop-size", "32", "--published", "CLIC2020")
    tables = ["results.md", "results.tex", "results.csv", "pictures.csv"]
    plots = ["rate-distortion.svg", "rate-distortion.png"]
    assert names(out) == {*tables, *plots, "report.html", "crops.png"}
    assert f"written: {out / 'crops.png'}" in text
    table = (out / "results.md").read_text(encoding="utf-8")
    assert re.search(r"\| System \| SSIM ↑.* \| PSNR \(dB\) ↑", table)
    rows = [row for row in table.splitlines() if row.startswith(("| bicubic", "| \\<img"))]
    assert len(rows) == 2
    assert rows[0].startswith("| bicubic")
    assert "Published, not measured, CLIC2020" in table
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert len(page.data["pictures"]) == 4
    assert "Again" in page.text


def test_reports_that_cannot_be_made_are_refused(results: list[SystemResult], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    write_result(tmp_path / "bicubic.json", results[0])
    out = ("-o", tmp_path / "out")
    assert "has no results" in refused("report", tmp_path / "empty", *out, status=2)
    assert "other.json: not a result" in refused("report", tmp_path / "other.json", *out, status=2)
    assert "gone.json" in refused("report", tmp_path / "gone.json", *out, status=2)
    mine = tmp_path / "bicubic.json"
    assert "no metric 'pnsr'" in refused("report", mine, *out, "--metrics", "pnsr", status=2)
    assert "no system has measured a photograph 'x@y'" in refused("report", mine, *out, "--crop", "x@y", status=2)
    assert not names(tmp_path) - {"other.json", "bicubic.json"}


# --- in a real browser -----------------------------------------------------------------------------------------------


class Browser(Screen):
    """The report, open in Chromium, by what people do with it."""

    def __init__(self, driver: Any, path: Path) -> None:
        super().__init__(driver)
        driver.get(path.as_uri())
        self.decoded()

    def part(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of what is shown, as the page says it."""
        numbers = re.findall(r"(\d+)–(\d+) of", self.find("#where").text)  # noqa: RUF001
        (left, right), (top, bottom) = (tuple(map(int, pair)) for pair in numbers)
        return left, top, right, bottom

    def go_to(self, name: str) -> None:
        self.choose("#order", "name")
        index = sorted(NAMES).index(name)
        self.all("#picture option")[index].click()
        self.decoded()

    def view(self, number: int) -> UInt8Array:
        """What a panel shows, as pixels of the screen."""
        from PIL import Image

        data = self.all(".view")[number].screenshot_as_png
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def browser(chromium: Any, results: list[SystemResult], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The report in Chromium; whatever a test did with it, nothing may have been reported in the console."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, results, sort="psnr", progress=False)
    chromium.get_log("browser")
    opened = Browser(chromium, path)
    yield opened
    assert opened.complaints() == []
    assert opened.run("return window.hacked") is None
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_console_would_tell(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!DOCTYPE html><script>throw Error('seen')</script>", encoding="utf-8")
    assert any("seen" in message for message in Browser(chromium, tmp_path / "page.html").complaints())


def test_all_pictures_are_shown_and_nothing_is_loaded(browser: Browser) -> None:
    for _ in NAMES:
        widths = browser.decoded()
        assert len(widths) >= 1 + 1 + 2 * 2  # overview; original; thumbnail and bicubic, each with the original below
        assert min(widths) > 0
        browser.find("#next").click()
    assert all(
        url.startswith("data:")
        for url in browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    )


def test_the_part_moves_by_keyboard(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.go_to("waves")
    for area in ("#overview", "#panels"):
        element = browser.find(area)
        element.send_keys(Keys.SHIFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
        left, top, right, _ = browser.part()
        assert (left, top) == (0, 0)
        before = browser.run("return document.querySelector('.view img').style.transform")
        element.send_keys(Keys.ARROW_RIGHT)
        moved = browser.part()
        assert moved[0] == pytest.approx((right - left) / 8, abs=1)
        assert moved[1] == 0
        assert browser.run("return document.querySelector('.view img').style.transform") != before
        element.send_keys(Keys.ARROW_DOWN)
        assert browser.part()[1] > 0
        element.send_keys("+")
        zoomed = browser.part()
        assert zoomed[2] - zoomed[0] == pytest.approx((right - left) / 2**0.5, abs=1.5)
        element.send_keys("-")
        element.send_keys(Keys.SHIFT, *[Keys.ARROW_RIGHT, Keys.ARROW_DOWN] * 4)
        assert browser.part()[2:] == (300, 200)


def test_the_part_moves_by_mouse(browser: Browser) -> None:
    browser.go_to("waves")
    overview = browser.find("#overview")
    width, height = overview.size["width"], overview.size["height"]
    browser.find("#zoom").send_keys("\ue014" * 2)  # arrow right: closer, so that there is room to move
    browser.drag(overview, (0, 0), (0, 0))
    left, top, right, bottom = browser.part()
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((150, 100), abs=2)
    browser.drag(overview, (0, 0), (width // 6, height // 8))
    dragged = browser.part()
    assert dragged[0] - left == pytest.approx(300 / 6, abs=3)
    assert dragged[1] - top == pytest.approx(200 / 8, abs=3)
    # In a panel the picture goes along with the mouse: at zoom 4, forty pixels of the screen are ten.
    assert "zoom 4" in browser.find("#where").text
    browser.drag(browser.all(".view")[2], (0, 0), (40, 20))
    panned = browser.part()
    assert (dragged[0] - panned[0], dragged[1] - panned[1]) == (10, 5)


def test_panels_show_the_same_part_of_each_file(browser: Browser, results: list[SystemResult]) -> None:
    browser.go_to("waves")
    browser.find("#zoom").send_keys("\ue014" * 2)
    browser.drag(browser.find("#overview"), (0, 0), (0, 0))
    left, top, *_ = browser.part()
    picture = results[0].pictures[0]
    assert picture.picture == "waves"
    thumbnail = read_picture(str(picture.thumbnail)).rgb.repeat(16, axis=0).repeat(16, axis=1)
    files = [read_picture(str(picture.original)).rgb, thumbnail, read_picture(str(picture.restored)).rgb]
    for number, rgb in enumerate(files):
        seen = browser.view(number).astype(float)
        size = len(seen) // 4 - 2

        def error(dx: int, dy: int, rgb: UInt8Array = rgb, seen: Any = seen, size: int = size) -> float:
            wanted = rgb[top + 1 + dy : top + 1 + dy + size, left + 1 + dx : left + 1 + dx + size]
            shown = seen[4:, 4:][: 4 * size, : 4 * size].reshape(size, 4, size, 4, 3).mean((1, 3))
            return float(np.abs(shown - wanted).mean())

        assert error(0, 0) < 6, number
        assert error(0, 0) < min(error(3, 0), error(-3, 0), error(0, 3), error(0, -3)), number


def test_pictures_are_listed_worst_first_best_first_and_by_name(browser: Browser, results: list[SystemResult]) -> None:
    def listed() -> list[str]:
        return [option.text.split("  ")[-1].strip() for option in browser.all("#picture option")]

    def ranked(system: int, metric: str) -> list[str]:
        there = [picture for picture in results[system].pictures if metric in picture.values]
        return [p.picture for p in sorted(there, key=lambda p: p.values[metric])]

    def alike(a: list[str], b: list[str]) -> bool:
        """Lists show runs of spaces as one."""
        return [" ".join(name.split()) for name in a] == [" ".join(name.split()) for name in b]

    def names() -> list[str]:
        return [re.sub(r"^[\d.]+( dB)? ", "", " ".join(text.split())) for text in listed()]

    assert alike(names(), ranked(0, "psnr"))
    assert (
        browser.find("#picture option").text.split()[0] == f"{min(p.values['psnr'] for p in results[0].pictures):.2f}"
    )
    browser.choose("#order", "best")
    assert alike(names(), ranked(0, "psnr")[::-1])
    browser.choose("#metric", "bytes")  # of which fewer are better
    assert alike(names(), ranked(0, "bytes"))
    browser.choose("#order", "worst")
    browser.choose("#system", "1")
    assert alike(names(), [*ranked(1, "bytes")[::-1], "waves"])  # failed there, so last
    browser.choose("#order", "name")
    assert alike(names(), sorted(NAMES))


def test_pictures_and_systems_are_chosen(browser: Browser) -> None:
    browser.go_to("waves")
    captions = [figure.text for figure in browser.all("#panels figcaption strong")]
    assert captions == ["original", "thumbnail of bicubic", "bicubic", HOSTILE]
    assert browser.find(".view p").text == "waves.png is damaged; use another copy."
    assert browser.run("return document.querySelector('.view img').alt") == "original: waves"
    browser.find("#previous").click()
    assert browser.run("return document.querySelector('.view img').alt") == "original: long"
    assert browser.find("#window").is_displayed()  # of a picture that was cut
    assert not browser.all(".view p")
    for box in browser.all("#shown input")[1:3]:
        box.click()
    assert [figure.text for figure in browser.all("#panels figcaption strong")] == ["original", HOSTILE]
    browser.find("#flip").click()
    shown = browser.run(
        "return [...document.querySelectorAll('.view')].map((v) => "
        "[...v.querySelectorAll('img')].filter((i) => i.checkVisibility()).map((i) => i.src))"
    )
    assert [len(sources) for sources in shown] == [1, 1]
    assert shown[0] == shown[1]


def test_a_divider_uncovers_the_original_in_every_panel(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.go_to("long")
    dividers = browser.all(".divider")
    assert len(dividers) == 3  # the original's own panel has none
    assert "original" in dividers[0].get_attribute("aria-label")
    dividers[1].send_keys(Keys.PAGE_UP, Keys.ARROW_RIGHT)
    assert [divider.get_attribute("aria-valuenow") for divider in dividers] == ["12"] * 3
    view = browser.all(".view")[1]
    browser.drag(dividers[0], (0, 0), (view.size["width"] // 2, 0))
    assert int(dividers[2].get_attribute("aria-valuenow")) == pytest.approx(62, abs=2)
    dividers[1].send_keys(Keys.END)
    assert browser.run("return [...document.querySelectorAll('.layer')].filter((e) => e.hidden).length") == 3


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_wide_and_narrow(browser: Browser, width: int, scheme: str) -> None:
    driver = browser.driver
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = browser.run(
        "const of = (e, p) => getComputedStyle(document.querySelector(e))[p].match(/[\\d.]+/g).slice(0, 3).map(Number);"
        "return [of('body', 'backgroundColor'), of('body', 'color'), of('.plot', 'color'), of('figcaption', 'color')];"
    )
    paper, *inks = ([channel / 255 for channel in colour] for colour in colours)
    assert (sum(paper) > 1.5) == (scheme == "light")
    for ink in inks:  # WCAG's contrast for text, with a power for its curve
        light, dark = sorted(
            (sum(w * c**2.2 for w, c in zip((0.2126, 0.7152, 0.0722), x, strict=True)) for x in (ink, paper)),
            reverse=True,
        )
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert min(browser.decoded()) > 0


def test_every_control_has_a_name(browser: Browser) -> None:
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in ("button", "combobox", "checkbox", "slider", "application", "image", "link", "table", "region"):
            hidden = node.get("ignored") or role == "table"
            assert hidden or node.get("name", {}).get("value"), node
            seen.add(role)
    assert {"button", "combobox", "checkbox", "slider", "application", "image"} <= seen
