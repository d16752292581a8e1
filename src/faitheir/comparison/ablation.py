"""The paper's ablation, Tables 2 and 3, from trained runs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from faitheir.comparison.methods import Opener
from faitheir.comparison.published import published_results, published_table
from faitheir.comparison.systems import ModelSystem
from faitheir.comparison.tables import summary_csv, tabulate, to_latex, to_markdown
from faitheir.errors import EvaluationError
from faitheir.evaluation.results import SystemResult
from faitheir.models import CONFIG_FILE, ModelConfig, read_config
from faitheir.storage import write_files

#: The columns of the paper's Tables 2 and 3, with both networks of LPIPS since it does not name one.
ABLATION_METRICS = {
    2: ("lpips_alex", "lpips_vgg", "lpips", "dists"),
    3: ("psnr", "ssim", "lpips_alex", "lpips_vgg", "lpips", "dists"),
}


@dataclass(frozen=True)
class AblationRun:
    """A trained run of the ablation. ``label``: as Table 2 has it; ``experiment``: E1 to E9, or the folder's name."""

    folder: Path
    config: ModelConfig
    label: str
    experiment: str

    @property
    def opener(self) -> Opener:
        """For ``compare``."""
        return partial(ModelSystem, str(self.folder / "model"), label=self.folder.name)


_PRIORS = {"adp": "ADP", "zeros": "Zeros ADP", "random": "Random ADP", "normal": "ND", "gmm": "GMM"}


def ablation_runs(folder: str | Path) -> list[AblationRun]:
    """The trained runs in a folder: the folders in it that hold a finished model/. Raises EvaluationError for none."""
    root = Path(folder)
    found = sorted(path.parent.parent for path in root.glob(f"*/model/{CONFIG_FILE}"))
    if not found:
        raise EvaluationError(f"{root}: no trained runs; give a folder whose folders each hold a finished model/.")
    known = {str(record["method"]): str(record["experiment"]) for record in published_table(2).records()}
    runs = []
    for run in found:
        config = read_config(run / "model")
        label = table2_label(config, _losses(run))
        name = run.name.upper() if re.fullmatch(r"e\d+", run.name.lower()) else run.name
        runs.append(AblationRun(run, config, label, known.get(label, name)))
    return runs


def _losses(run: Path) -> dict[str, Any]:
    """The losses' settings of a run, as far as they can be read."""
    try:
        values = json.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))["losses"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return values if isinstance(values, dict) else {}


def table2_label(config: ModelConfig, losses: Mapping[str, Any]) -> str:
    """A run as the paper's Table 2 would call it, such as "w/ LRT+ADP+SP (layer23)"."""
    codec = config.codec
    parts = f"w/ {'HaarT' if codec.transform == 'haar' else 'LRT'}+{_PRIORS[codec.prior]}"
    if codec.embedder == "none":
        return f"{parts} w/o SP"
    if codec.embedder == "lte":
        return f"{parts}+LTE"
    teacher = losses.get("teacher", "dinov2")
    of = f"layer{losses.get('teacher_layer', 23)}" if teacher == "dinov2" else teacher
    return f"{parts}+SP ({of if losses.get('semantic', 1) else 'not aligned'})"


def ablation_tables(runs: Sequence[AblationRun], results: Sequence[SystemResult]) -> dict[int, list[SystemResult]]:
    """The rows of the paper's Tables 2 and 3: ours, measured, each under the paper's name, then the published ones.

    ``results``: of ``runs``, in their order. Table 3 has the runs with a prior of zeros or of random values, and those
    that differ from one of them only in that their prior was learned; where a folder is named adp-..., it is for
    Table 3 alone, and of the learned ones such alone are. Table 2 has all others.
    """
    fixed = [run.config.codec for run in runs if run.config.codec.prior in ("zeros", "random")]
    learned = [
        run
        for run in runs
        if run.config.codec.prior == "adp" and any(replace(c, prior="adp") == run.config.codec for c in fixed)
    ]
    learned = [run for run in learned if run.folder.name.startswith("adp-")] or learned
    rows: dict[int, list[SystemResult]] = {2: [], 3: []}
    for run, result in sorted(zip(runs, results, strict=True), key=lambda pair: pair[0].experiment):
        prior = run.config.codec.prior
        if prior not in ("zeros", "random") and not run.folder.name.startswith("adp-"):
            rows[2].append(replace(result, system=f"{run.experiment} {run.label}"))
        if prior in ("zeros", "random") or run in learned:
            name = {"zeros": "Zeros ADP", "random": "Random ADP"}.get(prior, "Learnable ADP")
            rows[3].append(replace(result, system=name))
    return {number: [*own, *published_results(number)] for number, own in rows.items() if own}


def write_ablation(folder: str | Path, tables: Mapping[int, Sequence[SystemResult]]) -> list[Path]:
    """Write table2.md, .tex and .csv, and those of table 3, into a folder that exists."""
    texts: dict[str, str] = {}
    for number, rows in tables.items():
        table, name = tabulate(rows, ABLATION_METRICS[number], published_table(number).caption), f"table{number}"
        texts |= {f"{name}.md": to_markdown(table), f"{name}.tex": to_latex(table)}
        texts[f"{name}.csv"] = summary_csv(rows, ABLATION_METRICS[number])
    return write_files(folder, {name: text.encode() for name, text in texts.items()})
