"""The paper's tables as data: whole, as printed, and never taken for something measured."""

import pytest

from faitheir.comparison.published import TABLES, PublishedTable, published_results, published_table
from faitheir.errors import EvaluationError


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 54, 10), (2, 9, 4), (3, 3, 5), (4, 5, 4), (5, 5, 4)])
def test_shape(number: int, rows: int, columns: int) -> None:
    table = published_table(number)
    assert table.table == number
    assert (len(table.rows), len(table.columns)) == (rows, columns)
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
    assert value(4, "parameters_millions", method="IRN") == 34.2
    assert value(4, "seconds_up", method="FaithEIR") == 5.7912
    assert value(5, "storage_kb", method="w/o JPEG") == 477418.32
    assert value(5, "lpips", method="w/o JPEG") is None


def test_what_cannot_be_right_is_marked() -> None:
    """Table 5's ratios: three follow from its storage column, FaithEIR's does not and is marked."""
    table = published_table(5)
    marked = {(d.row, d.column) for d in table.disputed}
    whole = value(5, "storage_kb", method="w/o JPEG")
    for record in table.records()[1:]:
        follows = whole / record["storage_kb"] == pytest.approx(record["compression_ratio"], abs=0.01)  # type: ignore[operator]
        assert follows != ((record["method"], "compression_ratio") in marked)
    for row, column in marked:
        assert value(5, column, method=row) is not None
    assert not any(published_table(number).disputed for number in TABLES[:-1])


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
    assert published_results(4)[0].summary == {"seconds_down": 0.4032, "seconds_up": 0.496}


def test_what_the_paper_has_not() -> None:
    with pytest.raises(EvaluationError, match="no Table 6"):
        published_table(6)
    with pytest.raises(EvaluationError, match="Kodak"):
        published_results(1, dataset="Kodak")
    with pytest.raises(EvaluationError, match="16, 32"):
        published_results(1, scale=8)
    with pytest.raises(EvaluationError, match="2 values"):
        PublishedTable(9, "", "", "", (), ("a", "b"), (("x", 1.0), ("y",)))
