"""The page of `faitheir serve`, in a real Chromium, over a real server of tiny models."""

import base64
import io
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import Screen
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.images import read_picture
from faitheir.pipeline import FaithEIRPipeline
from faitheir.server.app import Access
from serving import Gate, Server, running, tiny_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: list[Path]) -> Iterator[Server]:
    with running(models) as server:
        yield server


class Page(Screen):
    """The page, by what people do with it."""

    def __init__(self, driver: Any, url: str) -> None:
        super().__init__(driver)
        driver.get(url)

    def until(self, script: str, seconds: float = 120) -> Any:
        """Wait until a script gives something true."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {script}")):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return value

    def open(self, *paths: Path, field: str = "photographs") -> None:
        self.find(f"#{field}").send_keys("\n".join(map(str, paths)))

    def shown(self, name: str) -> None:
        self.until(f"document.getElementById('look-heading').textContent === '{name}'")
        self.until("!document.getElementById('look').hidden")

    def states(self) -> list[str]:
        return [element.text for element in self.all("#queue .state")]

    def facts(self) -> dict[str, str]:
        terms = zip(self.all("#facts dt"), self.all("#facts dd"), strict=True)
        return {term.text: value.text for term, value in terms}

    def measured(self) -> dict[str, str]:
        self.until("/dB/.test(document.getElementById('facts').textContent)")
        return self.facts()

    def divided(self) -> int:
        return int(self.find(".divider").get_attribute("aria-valuenow"))

    def shares(self) -> list[list[float]]:
        """Of each picture: its left, top and width, as shares of its pane's width."""
        found: list[list[float]] = self.run(
            "return [...document.querySelectorAll('.view')].flatMap((v) => [...v.querySelectorAll('img')].map((i) => {"
            "const [a, b] = [v, i].map((e) => e.getBoundingClientRect());"
            "return [(b.left - a.left) / a.width, (b.top - a.top) / a.width, b.width / a.width]; }))"
        )
        return found

    def asked(self, path: str) -> int:
        """How often the page asked the server for something."""
        return int(
            self.run(
                "return performance.getEntriesByType('resource').filter((e) => e.name.includes(arguments[0])).length",
                path,
            )
        )


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Page]:
    """The page; whatever a test did with it, nothing may have been reported in the console."""
    chromium.get_log("browser")
    opened = Page(chromium, server.url)
    opened.resize(1400, 1000)
    opened.until("document.querySelectorAll('#model option').length")
    yield opened
    complaints = [line for line in opened.complaints() if "status of 422" not in line]  # a broken file's answer
    assert complaints == []
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.get("about:blank")


def test_photographs_come_back_and_a_broken_one_says_why(
    page: Page, photo: Callable[..., Path], models: list[Path], tmp_path: Path
) -> None:
    first, second = photo("first.png", 160, 112), photo("second.jpg", 96, 144, quality=90)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(second.read_bytes()[:500])
    page.choose("#picture-format", "png")
    page.open(first, broken, second)
    page.shown("first.png")
    page.until("document.getElementById('queue-heading').textContent.includes('3 of 3')")
    states = page.states()
    assert re.fullmatch(r"[\d.]+ kB → \d+ bytes", states[0])
    assert states[1].startswith("Failed: The photograph is damaged")
    assert "→" in states[2]
    # What is measured in the page is what the library measures.
    pipeline = FaithEIRPipeline.from_pretrained(models[0])
    thumbnail = pipeline.downscale(first).encode()
    restored = np.array(pipeline.upscale(thumbnail))
    original = read_picture(first).rgb
    facts = page.measured()
    assert float(facts["PSNR"].removesuffix(" dB")) == pytest.approx(psnr(original, restored), abs=0.006)
    assert float(facts["SSIM"]) == pytest.approx(ssim(original, restored), abs=2e-4)
    assert facts["Thumbnail"] == f"{len(thumbnail)} bytes, 10 × 7"  # noqa: RUF001
    assert facts["Original"].endswith("160 × 112")  # noqa: RUF001
    size = page.run("const i = document.getElementById('thumbnail'); return [i.width, i.height, i.naturalWidth]")
    assert size == [10, 7, 10]
    # Another one of the list.
    page.all("#queue button:not([hidden])")[1].click()
    page.shown("second.jpg")
    assert page.measured()["Original"].endswith("96 × 144")  # noqa: RUF001
    assert min(page.decoded()) > 0


def test_the_divider_moves_by_keys_and_by_mouse(page: Page, photo: Callable[..., Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(photo("wide.png", 320, 160))
    page.shown("wide.png")
    divider, view = page.find(".divider"), page.find(".view")
    assert page.divided() == 50
    divider.send_keys(Keys.ARROW_LEFT * 3)
    assert page.divided() == 44
    divider.send_keys(Keys.PAGE_UP, Keys.SHIFT, Keys.ARROW_RIGHT)
    assert page.divided() == 64
    divider.send_keys(Keys.HOME)
    assert page.run("return document.querySelectorAll('.view .layer[hidden] img')[0].alt") == "wide.png, the original"
    divider.send_keys(Keys.END)
    assert page.run("return document.querySelectorAll('.view .layer[hidden] img')[0].alt") == "wide.png, restored"
    page.drag(divider, (0, 0), (-view.size["width"] // 4, 0))
    assert page.divided() == pytest.approx(75, abs=2)
    # All of it is seen: wherever it is taken hold of, the divider comes.
    page.drag(view, (-view.size["width"] // 4, 40), (20, 0))
    assert page.divided() == pytest.approx(25 + 100 * 20 / view.size["width"], abs=2)


def test_all_pictures_zoom_and_move_in_step(page: Page, photo: Callable[..., Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    page.open(photo("a.png", 320, 240))
    page.shown("a.png")

    def in_step() -> list[list[float]]:
        shares = page.shares()
        assert len(shares) == 3  # original below restored; thumbnail
        for left, top, width in shares[1:]:
            assert (left, top, width) == pytest.approx(shares[0], abs=0.02)
        return shares

    whole = in_step()[0]
    assert whole == pytest.approx([0, 0, 1], abs=0.01)
    panes, view = page.find("#panes"), page.find(".view")
    panes.send_keys("++")
    zoomed = in_step()[0]
    assert zoomed[2] == pytest.approx(2, rel=0.02)
    assert zoomed[0] == pytest.approx(-0.5, abs=0.02)  # about the middle
    panes.send_keys(Keys.ARROW_RIGHT)
    assert in_step()[0][0] == pytest.approx(-0.5 - 1 / 8, abs=0.02)
    page.drag(view, (-150, -60), (60, 30))
    moved = in_step()[0]
    assert moved[0] == pytest.approx(-0.5 - 1 / 8 + 60 / view.size["width"], abs=0.02)
    assert moved[1] > zoomed[1]
    # By the wheel: what is under it stays.
    origin = ScrollOrigin.from_element(view, view.size["width"] // 4, 0)
    ActionChains(page.driver).scroll_from_origin(origin, 0, -200).perform()
    wheeled = in_step()[0]
    assert wheeled[2] == pytest.approx(4, rel=0.03)
    under = [(0.75 - share[0]) / share[2] for share in (moved, wheeled)]
    assert under[0] == pytest.approx(under[1], abs=0.01)
    panes.send_keys("0")
    assert in_step()[0] == pytest.approx(whole, abs=0.01)
    page.find("#in").click()
    page.find("#out").click()
    assert in_step()[0] == pytest.approx(whole, abs=0.01)


def test_two_fingers_zoom(page: Page, photo: Callable[..., Path]) -> None:
    page.open(photo("a.png", 320, 240))
    page.shown("a.png")
    page.run("document.querySelector('.view').scrollIntoView({block: 'center'})")
    box = page.run(
        "const b = document.querySelector('.view').getBoundingClientRect(); return [b.x + b.width / 2, b.y + 40]"
    )

    def touch(kind: str, *xs: int) -> None:
        points = [{"x": box[0] + x, "y": box[1], "id": n} for n, x in enumerate(xs)]
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -40, 40)
    touch("touchMove", -80, 80)
    touch("touchMove", -120, 120)
    touch("touchEnd")
    assert page.shares()[0][2] == pytest.approx(3, rel=0.1)


def test_fidelity_restores_again_without_the_photograph(page: Page, photo: Callable[..., Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(photo("a.png", 160, 112))
    page.shown("a.png")
    before = page.measured()
    source = page.run("return document.querySelectorAll('.view img')[1].src")
    page.find("#panes").send_keys("+")
    page.find("#fidelity").send_keys(Keys.END)
    page.until("document.getElementById('status').textContent.includes('fidelity 1.00')")
    assert page.run("return document.querySelectorAll('.view img')[1].src") != source
    assert page.measured()["PSNR"] != before["PSNR"]
    assert (page.asked("/v1/thumbnails?"), page.asked("/v1/pictures?")) == (1, 2)
    assert page.shares()[0][2] == pytest.approx(2**0.5, rel=0.02)  # what was looked at still is


def test_what_was_not_taken_is_told_and_it_is_made_again_with_other_settings(
    page: Page, photo: Callable[..., Path]
) -> None:
    frames = [Image.open(photo(f"{seed}.png", 96, 64, seed=seed)) for seed in (1, 2)]
    animation = photo("a.gif")
    frames[0].save(animation, save_all=True, append_images=frames[1:])
    page.open(animation)
    page.shown("a.gif")
    assert page.measured()["Note"].startswith("several frames")
    again = page.find("#again")
    assert not again.is_displayed()
    page.choose("#model", "tiny-x32")
    assert again.text == "Make a.gif again"
    again.click()
    page.until("/tiny-x32/.test(document.getElementById('facts').textContent)")
    assert len(page.states()) == 2
    assert not again.is_displayed()


def test_rivals_are_seen_beside_it(page: Page, photo: Callable[..., Path]) -> None:
    page.open(photo("a.png", 320, 240))
    page.shown("a.png")
    page.find("#compare").click()
    page.until("document.querySelectorAll('#panes figure').length === 5", 120)
    captions = [caption.text for caption in page.all("#panes figcaption")][2:]
    for caption, name in zip(captions, ("Bicubic", "WebP", "AVIF"), strict=True):
        assert caption.startswith(name)
        assert "dB" in caption or "cannot go so low" in caption
    assert min(page.decoded()) > 0


def test_what_is_cancelled_is_not_done(
    chromium: Any, models: list[Path], photo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(models[:1]) as server:
        page = Page(chromium, server.url)
        page.until("document.querySelectorAll('#model option').length")
        gate = Gate(server, monkeypatch)
        page.open(*(photo(f"{n}.png", 64, 48, seed=n) for n in range(4)))
        gate.entered.acquire()
        assert page.states()[0].startswith("Thumbnail is being made")
        assert page.states()[3] == "Waits"
        page.all("#queue button:not([hidden])")[0].click()
        server.until(lambda service: len(service.errands) <= 2)
        gate.open.set()
        page.until("document.getElementById('queue-heading').textContent.includes('4 of 4')")
        assert page.states()[0] == "Cancelled"
        assert all("→" in state for state in page.states()[1:])
        # All at once.
        gate.open.clear()
        page.open(photo("4.png"), photo("5.png"))
        page.until("!document.getElementById('cancel-all').hidden")
        page.find("#cancel-all").click()
        assert page.states()[4:] == ["Cancelled"] * 2
        gate.open.set()
        server.until(lambda service: not service.errands)


def test_a_thumbnail_becomes_a_picture(
    page: Page, models: list[Path], photo: Callable[..., Path], tmp_path: Path
) -> None:
    FaithEIRPipeline.from_pretrained(models[1]).downscale(photo("a.png", 100, 70)).save(tmp_path / "a.thumb.webp")
    page.open(tmp_path / "a.thumb.webp", field="thumbnails")
    page.shown("a.thumb.webp")
    facts = page.facts()
    assert (facts["Model"], facts["Restored"]) == ("tiny-x32", "100 × 70")  # noqa: RUF001
    assert page.run("return document.querySelectorAll('.view img')[0].alt").startswith("The thumbnail")
    assert not page.find("#fidelity-control").is_displayed()  # that model has none
    # Anybody's: by the model that is chosen.
    page.choose("#model", "tiny-x16")
    page.open(photo("small.png", 9, 6), field="thumbnails")
    page.until("document.getElementById('queue-heading').textContent.includes('2 of 2')")
    page.all("#queue button:not([hidden])")[1].click()
    page.shown("small.png")
    assert page.facts()["Restored"] == "144 × 96"  # noqa: RUF001


def test_files_are_dropped_and_pasted(page: Page, models: list[Path], photo: Callable[..., Path]) -> None:
    give = (
        "const [type, selector, name, data] = arguments; const all = new DataTransfer();"
        "all.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, {type: 'image/png'}));"
        "const how = {bubbles: true, cancelable: true, dataTransfer: all, clipboardData: all};"
        "const event = type === 'paste' ? new ClipboardEvent(type, how) : new DragEvent(type, how);"
        "document.querySelector(selector).dispatchEvent(event); return event.defaultPrevented"
    )
    data = base64.b64encode(photo("a.png", 64, 48).read_bytes()).decode()
    made = FaithEIRPipeline.from_pretrained(models[0]).downscale(photo("a.png", 64, 48)).encode("png")
    assert page.run(give, "dragover", "#drop-photographs", "a.png", data)
    assert "over" in page.find("#drop-photographs").get_attribute("class")
    assert page.run(give, "drop", "#drop-photographs", "dropped.png", data)
    page.shown("dropped.png")
    page.run(give, "paste", "body", "pasted.png", data)
    page.run(give, "drop", "h1", "ours.png", base64.b64encode(made).decode())
    page.until("document.getElementById('queue-heading').textContent.includes('3 of 3')")
    names = [name.text for name in page.all("#queue .name")]
    states = dict(zip(names, page.states(), strict=True))
    assert "→" in states["dropped.png"]
    assert "→" in states["pasted.png"]
    assert "→" not in states["ours.png"]  # wherever it is dropped, ours is known as a thumbnail


def test_results_are_downloaded_one_by_one_and_as_a_zip(
    page: Page, photo: Callable[..., Path], tmp_path: Path, server: Server
) -> None:
    folder = tmp_path / "downloads"
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    path = photo("grün a.png", 160, 112)
    page.open(path, path)
    page.shown("grün a.png")
    page.until("document.getElementById('queue-heading').textContent.includes('2 of 2')")

    def downloaded(name: str) -> bytes:
        end = time.monotonic() + 60
        while not (folder / name).exists():
            assert time.monotonic() < end, name
            time.sleep(0.05)
        return (folder / name).read_bytes()

    page.find("#download-thumbnail").click()
    page.find("#download-picture").click()
    thumbnail, restored = downloaded("grün a.thumb.avif"), downloaded("grün a.restored.jpg")
    assert thumbnail == server.post("/v1/thumbnails", path.read_bytes()).body
    assert Image.open(io.BytesIO(restored)).size == (160, 112)
    page.find("#download-all").click()
    with zipfile.ZipFile(io.BytesIO(downloaded("faitheir.zip"))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            *("grün a.thumb.avif", "grün a.restored.jpg", "grün a-2.thumb.avif", "grün a-2.restored.jpg"),
        ]
        assert archive.read("grün a.thumb.avif") == thumbnail
        assert archive.read("grün a-2.restored.jpg") == restored


def test_full_screen_is_left_as_it_was_entered(page: Page, photo: Callable[..., Path]) -> None:
    page.open(photo("a.png", 160, 112))
    page.shown("a.png")
    button, view = page.find("#full"), page.find(".view")
    before = view.size
    for _ in range(2):
        button.click()
        page.until("document.fullscreenElement?.id === 'stage'")
        page.until("document.getElementById('full').getAttribute('aria-pressed') === 'true'")
        assert view.size["height"] > before["height"] * 0.9
        assert button.text == "Leave full screen"
        page.run("document.exitFullscreen()") if _ else button.click()
        page.until("!document.fullscreenElement")
        page.until("document.getElementById('full').getAttribute('aria-pressed') === 'false'")
        assert view.size == before
        assert page.run("return document.activeElement.id") == "full"
        assert page.shares()[0] == pytest.approx([0, 0, 1], abs=0.01)
    # Where the browser has no full screen, as on some telephones.
    page.run("document.getElementById('stage').requestFullscreen = undefined")
    button.click()
    assert "filled" in page.find("#stage").get_attribute("class")
    button.send_keys("\ue00c")  # Escape
    assert "filled" not in page.find("#stage").get_attribute("class")
    assert view.size == before


def test_the_example_is_there(page: Page) -> None:
    page.find("#example").click()
    page.shown("example.jpg")
    assert page.facts()["Original"].endswith("600 × 400")  # noqa: RUF001


def test_the_page_asks_for_the_token(chromium: Any, models: list[Path]) -> None:
    with running(models[:1], access=Access(token="open sesame")) as server:
        page = Page(chromium, server.url)
        page.until("!document.getElementById('access').hidden")
        page.find("#token").send_keys("open sesame\n")
        page.until("document.querySelectorAll('#model option').length === 1")
        assert not page.find("#access").is_displayed()
        # As part of the address, where it is not sent to anyone.
        page.run("sessionStorage.clear()")
        page.driver.get("about:blank")
        page.driver.get(f"{server.url}/#token=open+sesame")
        page.until("document.querySelectorAll('#model option').length === 1")
        assert "sesame" not in page.driver.current_url
        page.run("sessionStorage.clear()")
    chromium.get_log("browser")


def test_nothing_comes_from_elsewhere(page: Page, server: Server) -> None:
    answer = server.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    for name in ("app.js", "app.css", "slider.js", "slider.css", "zip.js", "measure.js", "example.jpg"):
        file = server.get(f"/assets/{name}")
        assert file.status == 200
        assert server.get(f"/assets/{name}", If_None_Match=file.headers["etag"]).status == 304
        assert name.endswith(".jpg") or not re.search(rb"https?://", file.body)
    assert server.get("/assets/../app.py").status == 404
    assert all(
        url.startswith((server.url, "data:"))
        for url in page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    )


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm; the test is skipped where that cannot be installed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, so axe-core cannot be")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"axe-core cannot be installed here ({error})")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def test_axe_finds_nothing_and_nothing_is_cut_off(page: Page, photo: Callable[..., Path], axe: str) -> None:
    """On a telephone's width and a screen's, light and dark; empty, and with pictures of which one has failed."""
    page.driver.set_script_timeout(120)
    page.run(axe)
    for step in ("empty", "full"):
        if step == "full":
            broken = photo("broken.png")
            broken.write_bytes(broken.read_bytes()[:500])
            page.open(photo("with a long name " + "x" * 60 + ".png", 160, 112), broken)
            page.until("!document.getElementById('look').hidden")
            page.until("document.getElementById('queue-heading').textContent.includes('2 of 2')")
        for width in (390, 1400):
            page.resize(width)
            for scheme in ("light", "dark"):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
                assert page.run("return document.documentElement.scrollWidth") <= width, (step, width)
                found = page.driver.execute_async_script(
                    "const done = arguments[0]; axe.run().then(({violations}) => done(violations.map((v) =>"
                    " [v.id, v.impact, v.nodes.map((n) => n.html).slice(0, 3)])));"
                )
                assert found == [], (step, width, scheme)
                if step == "full":  # all of the picture is still seen
                    assert page.shares()[0] == pytest.approx([0, 0, 1], abs=0.01)
