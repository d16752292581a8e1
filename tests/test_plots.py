"""Rate-distortion plots: what is drawn, and files that anything can show."""

import math
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faitheir.comparison.plots import drawn_metrics, inline_svg, rate_distortion, to_svg, write_plots
from faitheir.errors import EvaluationError
from faitheir.evaluation.results import SystemResult
from faitheir.images import read_picture

pytest.importorskip("matplotlib")


def system(name: str, kind: str, rate: float, psnr: float, protocol: str = "paper", **about: str) -> SystemResult:
    summary = {"bits_per_pixel": rate, "psnr": psnr, "lpips_vgg": 1 / psnr, "seconds_up": 1.0, "bytes": 100 * rate}
    return SystemResult(name, kind, protocol, 16, summary=summary, about=about)  # type: ignore[arg-type]


RESULTS = [
    system("nano", "model", 0.08, 23),
    system("bicubic", "resampling", 0.07, 21),
    system("jpeg at equal PSNR", "codec", 0.3, 22.9, codec="jpeg"),
    system("jpeg at equal bytes", "codec", 0.081, 20, codec="jpeg", reduced="where needed"),
    SystemResult("SeD", "published", "paper", 16, summary={"psnr": 20.92, "lpips_vgg": 0.471}),
]


def test_a_panel_for_each_metric_of_quality_and_a_line_for_each_codec() -> None:
    figure = rate_distortion(RESULTS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["LPIPS (vgg), lower is better", "PSNR (dB), higher is better"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["nano", "bicubic", "jpeg"]
    lines = [[list(map(float, xy)) for xy in line.get_xydata()] for line in figure.axes[1].get_lines()]
    assert lines == [[[0.08, 23]], [[0.07, 21]], [[0.081, 20], [0.3, 22.9]]]
    styles = {(line.get_color(), line.get_marker()) for line in figure.axes[1].get_lines()}
    assert len(styles) == 3


def test_a_codec_that_is_helped_by_reducing_first_has_a_line_of_its_own() -> None:
    helped = system("jpeg, reduced, at equal bytes", "codec", 0.08, 21, codec="jpeg", reduced="freely")
    figure = rate_distortion([*RESULTS, helped], ["psnr"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["nano", "bicubic", "jpeg", "jpeg, reduced"]


def test_a_metric_can_be_chosen_and_one_that_has_no_values_is_not_drawn() -> None:
    assert drawn_metrics(RESULTS, ["psnr", "dists"]) == ["psnr"]
    assert len(rate_distortion(RESULTS, ["psnr"]).axes) == 1


def test_infinite_values_and_rates_of_nothing_are_left_out() -> None:
    odd = [system("same", "restored", 0.1, math.inf), system("nothing", "restored", 0, 20)]
    assert [len(axes.get_lines()) for axes in rate_distortion([*RESULTS, *odd], ["psnr"]).axes] == [3]


@pytest.mark.parametrize("results", [[], RESULTS[4:]])
def test_nothing_to_draw_is_said(results: list[SystemResult], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nothing to draw"):
        write_plots(tmp_path, results)
    assert not list(tmp_path.iterdir())


def test_two_of_one_name_are_told_apart() -> None:
    figure = rate_distortion([RESULTS[0], system("nano", "model", 0.08, 25, protocol="luma")])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["nano, paper", "nano, luma"]


def test_names_are_shown_as_they_are() -> None:
    names = ["$x^2$ & <b>", "_hidden", "a\nb"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = rate_distortion([system(name, "restored", 0.1, 20 + i) for i, name in enumerate(names)])
        svg = to_svg(figure)
        inline = inline_svg([system(name, "restored", 0.1, 20) for name in names])
    texts = [text.get_text().replace("\u200b", "") for text in figure.legends[0].get_texts()]
    assert texts == ["$x^2$ & <b>", "_hidden", "a b"]
    ElementTree.fromstring(svg)
    assert "$x^2$ & <b>" in "".join(ElementTree.fromstring(inline).itertext())


def test_files_are_whole_alike_each_time_and_load_nothing(tmp_path: Path) -> None:
    paths = write_plots(tmp_path, RESULTS)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_plots(tmp_path, RESULTS)] == first
    picture = read_picture(paths[1])
    assert picture.width > picture.height > 400
    for text in (first[0].decode(), inline_svg(RESULTS)):
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        for element in root.iter():
            assert not element.tag.endswith(("script", "image", "foreignObject"))
            assert all(v.startswith("#") for k, v in element.attrib.items() if k.endswith("href"))


def test_inline_plots_take_the_colour_of_their_page() -> None:
    text = inline_svg(RESULTS)
    assert "currentColor" in text
    assert "#010203" not in text
    root = ElementTree.fromstring(text)
    assert root.get("width")
    assert root.get("height") is None


@given(st.floats(1e-4, 10), st.floats(3, 1e4))
def test_every_axis_has_round_ticks(low: float, ratio: float) -> None:
    figure = rate_distortion([system("a", "model", low, 20), system("b", "model", low * ratio, 21)], ["psnr"])
    left, right = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if left <= tick <= right]
    assert 3 <= len(ticks) <= 12
    assert all(float(f"{tick:.2g}") == pytest.approx(tick, rel=1e-9) for tick in ticks)
