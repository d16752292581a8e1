"""The paper's Tables 2 and 3 from trained runs: which run is which row, and the published rows apart from ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import save_tiny_model
from faitheir.comparison.ablation import ablation_runs, ablation_tables, table2_label, write_ablation
from faitheir.comparison.compare import compare
from faitheir.comparison.produce import Setting
from faitheir.comparison.published import published_table
from faitheir.config import to_dict
from faitheir.errors import EvaluationError
from faitheir.training.config import load_train_config
from tiny import model_config

Photo = Callable[..., Path]

LOSSES = {"semantic": 5.0, "teacher": "dinov2", "teacher_layer": 23}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "e1": ({"transform": "haar", "prior": "normal", "embedder": "lte"}, LOSSES),
    "e2": ({"transform": "haar", "prior": "gmm", "embedder": "lte"}, LOSSES),
    "e3": ({"transform": "haar", "prior": "adp", "embedder": "lte"}, LOSSES),
    "e4": ({"prior": "gmm", "embedder": "lte"}, LOSSES),
    "e5": ({"embedder": "lte"}, LOSSES),
    "e6": ({"embedder": "none"}, LOSSES),
    "e7": ({}, LOSSES | {"teacher_layer": 4}),
    "e8": ({}, LOSSES | {"teacher_layer": 16}),
    "e9": ({}, LOSSES),
    "e10": ({}, LOSSES | {"teacher": "squeezenet"}),
    "no-alignment": ({}, LOSSES | {"semantic": 0.0}),
    "adp-zeros": ({"prior": "zeros", "embedder": "lte"}, LOSSES),
    "adp-random": ({"prior": "random", "embedder": "lte"}, LOSSES),
}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Run folders as training leaves them: the configuration of the run, and the finished model."""
    for name, (codec, losses) in RUNS.items():
        config = model_config(name="tiny", **codec)
        save_tiny_model(tmp_path / "runs" / name / "model", config)
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps({"losses": losses}))
    (tmp_path / "runs" / "unfinished").mkdir()
    return tmp_path / "runs"


def test_runs_are_recognised_by_their_configuration(trained: Path) -> None:
    runs = {run.folder.name: run for run in ablation_runs(trained)}
    assert set(runs) == set(RUNS)
    published = {record["experiment"]: record["method"] for record in published_table(2).records()}
    for number in range(1, 10):
        run = runs[f"e{number}"]
        assert (run.experiment, run.label) == (f"E{number}", published[f"E{number}"])
    assert (runs["e10"].experiment, runs["e10"].label) == ("E10", "w/ LRT+ADP+SP (squeezenet)")
    assert (runs["no-alignment"].experiment, runs["no-alignment"].label) == (
        "no-alignment",
        "w/ LRT+ADP+SP (not aligned)",
    )


def test_tables_in_the_papers_form(trained: Path, photo: Photo, tmp_path: Path) -> None:
    photo("hr/a.png", 64, 48)
    photo("hr/b.png", 50, 70, seed=1)
    runs = ablation_runs(trained)
    out = tmp_path / "out"
    setting = Setting(metrics=("psnr", "ssim"), progress=False)
    results = compare(tmp_path / "hr", [run.opener for run in runs], out, setting=setting)
    tables = ablation_tables(runs, results)
    ours = {number: [r for r in rows if r.kind != "published"] for number, rows in tables.items()}
    assert [r.system for r in ours[2]][:2] == ["E1 w/ HaarT+ND+LTE", "E10 w/ LRT+ADP+SP (squeezenet)"]
    assert len(ours[2]) == 11
    assert len(tables[2]) - len(ours[2]) == 9
    measured = dict(zip([run.folder.name for run in runs], results, strict=True))
    # Table 3's learned prior is the run that differs from the others in the prior alone: E5
    rows = {"Zeros ADP": "adp-zeros", "Random ADP": "adp-random", "Learnable ADP": "e5"}
    assert {r.system: r.summary["psnr"] for r in ours[3]} == {
        name: measured[run].summary["psnr"] for name, run in rows.items()
    }
    files = write_ablation(out, tables)
    assert {path.name for path in files} == {f"table{n}.{s}" for n in (2, 3) for s in ("md", "tex", "csv")}
    text = (out / "table3.md").read_text()
    assert "11.99" in text  # published
    assert f"{measured['adp-zeros'].summary['psnr']:.2f}" in text
    assert "Published, not measured" in text


def test_a_run_for_table_3_alone(trained: Path, photo: Photo, tmp_path: Path) -> None:
    """adp-learned is E5 once more, trained beside the two that it is compared with."""
    photo("hr/a.png", 64, 48)
    config = model_config(name="tiny", embedder="lte")
    save_tiny_model(trained / "adp-learned" / "model", config, seed=7)
    chosen = [run for run in ablation_runs(trained) if run.folder.name in ("e5", "adp-learned", "adp-zeros")]
    setting = Setting(metrics=("psnr",), progress=False)
    results = compare(tmp_path / "hr", [run.opener for run in chosen], tmp_path / "out", setting=setting)
    tables = ablation_tables(chosen, results)
    measured = {run.folder.name: result.summary["psnr"] for run, result in zip(chosen, results, strict=True)}
    ours = {n: {r.system: r.summary["psnr"] for r in rows if r.kind != "published"} for n, rows in tables.items()}
    assert ours == {
        2: {"E5 w/ LRT+ADP+LTE": measured["e5"]},
        3: {"Learnable ADP": measured["adp-learned"], "Zeros ADP": measured["adp-zeros"]},
    }


@pytest.mark.parametrize("number", range(1, 10))
def test_the_shipped_recipes_are_the_papers_rows(number: int) -> None:
    config = load_train_config(Path(__file__).parents[1] / "configs" / "ablation.toml", only=f"e{number}")
    (row,) = [r for r in published_table(2).records() if r["experiment"] == f"E{number}"]
    assert table2_label(config.model, to_dict(config.losses)) == row["method"]


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no trained runs"):
        ablation_runs(tmp_path)


def test_a_run_whose_settings_cannot_be_read(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "x" / "model", model_config(embedder="none"))
    (tmp_path / "x" / "config.json").write_text("{")
    (run,) = ablation_runs(tmp_path)
    assert run.label == "w/ LRT+ADP w/o SP"
