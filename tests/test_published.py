"""Published tables as data: whole, as printed, and never taken for something measured."""

import pytest

from faitheir.comparison.published import published_for, published_results, published_table
from faitheir.errors import EvaluationError


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 54, 10), (2, 9, 4), (3, 3, 5)])
def test_shape(number: int, rows: int, columns: int) -> None:
    table = published_table(number)
    assert table.table == number
    assert (len(table.rows), len(table.columns)) == (rows, columns)
    assert all(len(row) == columns for row in table.rows)
    assert all(isinstance(value, (int, float, str)) or value is None for row in table.rows for value in row)
    assert "2605.00605" in table.source
    assert table.note


def value(number: int, column: str, **where: object) -> object:
    (record,) = [r for r in published_table(number).records() if where.items() <= r.items()]
    return record[column]


@pytest.mark.parametrize(
    ("dataset", "scale", "method", "column", "wanted"),
    [
        ("DIV2K-val", 16, "SeD", "lpips", 0.4710),
        ("DIV2K-val", 32, "SeD", "musiq", 55.75),
        ("DIV2K-val", 16, "IRN", "psnr", 24.78),
        ("DIV2K-val", 32, "FaithEIR", "fid", 25.05),
        ("LSDIR-val", 16, "S3Diff", "kid", 0.0026),
        ("LSDIR-val", 32, "T-IRN", "ssim", 0.4937),
        ("CLIC2020", 16, "VQIR", "dists", 0.0828),
        ("CLIC2020", 32, "FaithEIR†", "psnr", 22.74),
        ("CLIC2020", 16, "DiffBIR", "musiq", 61.28),
    ],
)
def test_comparison(dataset: str, scale: int, method: str, column: str, wanted: float) -> None:
    assert value(1, column, dataset=dataset, scale=scale, method=method) == wanted


def test_comparison_is_complete() -> None:
    """Nine methods on three datasets at two scales, every cell a number."""
    records = published_table(1).records()
    keys = {(r["dataset"], r["scale"], r["method"]) for r in records}
    assert len(keys) == 54
    assert {d for d, _, _ in keys} == {"DIV2K-val", "LSDIR-val", "CLIC2020"}
    assert {s for _, s, _ in keys} == {16, 32}
    assert len({m for _, _, m in keys}) == 9
    assert all(isinstance(r[c], float) for r in records for c in published_table(1).columns[3:])


def test_spot_values_of_the_others() -> None:
    assert value(2, "dists", experiment="E4") == 0.2331
    assert value(2, "method", experiment="E9") == "w/ LRT+ADP+SP (layer23)"
    assert value(3, "psnr", method="Random ADP") == 11.99


def test_codecs() -> None:
    """StableCodec's and MS-ILLM's own results, five and two rates on three datasets."""
    results = published_results("codecs", dataset="Kodak")
    assert len(results) == 7
    assert len({r.system for r in results}) == 7
    (largest,) = [r for r in results if r.system == "StableCodec at 0.034 bpp"]
    assert largest.summary["lpips"] == 0.16643
    assert largest.summary["bits_per_pixel"] == 0.03413
    assert "2506.21977" in largest.note
    assert largest.scale is None
    assert len(published_results("codecs")) == 21
    assert published_for("Kodak") == results
    assert published_for("LSDIR-val") == published_results(1, dataset="LSDIR-val")
    assert len(published_for("CLIC2020")) == 18 + 7
    with pytest.raises(EvaluationError, match="Urban100"):
        published_for("Urban100")


def test_as_results() -> None:
    results = published_results(1, dataset="LSDIR-val", scale=32)
    assert [r.system for r in results] == [
        "SeD",
        "S3Diff",
        "DiffBIR",
        "IRN",
        "T-IRN",
        "VQIR",
        "TADM",
        "FaithEIR",
        "FaithEIR†",
    ]
    for result in results:
        assert (result.kind, result.scale, result.about["dataset"]) == ("published", 32, "LSDIR-val")
        assert not result.pictures
        assert "not measured" in result.note
        # the paper does not say which network its LPIPS has, so it is in neither of our columns
        assert set(result.summary) == {"lpips", "dists", "fid", "kid", "psnr", "ssim", "musiq"}
    assert len(published_results(1)) == 54
    assert published_results(2)[0].system == "E1 w/ HaarT+ND+LTE"


def test_what_the_paper_has_not() -> None:
    with pytest.raises(EvaluationError, match="Table 4 is not kept here"):
        published_table(4)
    with pytest.raises(EvaluationError, match="Kodak"):
        published_results(1, dataset="Kodak")
    with pytest.raises(EvaluationError, match="16, 32"):
        published_results(1, scale=8)
