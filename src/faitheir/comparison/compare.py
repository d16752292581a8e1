"""Systems side by side: each makes its files, all are measured under one protocol, and one set of tables shows them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from faitheir.comparison.methods import Opener
from faitheir.comparison.plots import write_plots
from faitheir.comparison.produce import Setting, System
from faitheir.comparison.report import write_report
from faitheir.comparison.systems import CodecSystem, ModelSystem, Restored
from faitheir.comparison.tables import write_tables
from faitheir.errors import EvaluationError, FaithEIRError
from faitheir.evaluation.evaluate import evaluate
from faitheir.evaluation.pairs import list_originals
from faitheir.evaluation.results import SystemResult, file_stem, write_result
from faitheir.evaluation.store import Store


def compare(
    originals: str | Path,
    openers: Sequence[Opener],
    output: str | Path,
    *,
    setting: Setting | None = None,
    target: str | None = None,
    done: Callable[[SystemResult], None] = lambda _: None,
) -> list[SystemResult]:
    """Make and measure every system, and write ``output/SYSTEM.json`` for each, in the order of ``openers``.

    ``target``: the name of the system that codecs are matched to; by default the first model. ``done``: called with
    each result once it is on disk; what was computed before a run stopped is not computed again.
    Raises EvaluationError before any work where systems or the target do not fit together; PairingError; and what a
    system raises that is no picture's fault.
    """
    setting = Setting() if setting is None else setting
    folder = Path(output)
    photographs = list_originals(originals, folder)
    systems, aim = _open(openers, setting, target)
    store = Store(folder / "cache")
    results: dict[str, SystemResult] = {}
    # The target comes first, whatever its place: codecs look its files up.
    for system in sorted(systems, key=lambda system: system is not aim):
        outputs = system.outputs(photographs, folder / file_stem(system.system), store, progress=setting.progress)
        result = evaluate(
            photographs,
            outputs,
            system=system.system,
            kind=system.kind,
            scale=system.scale,
            protocol=setting.protocol,
            metrics=setting.metrics,
            weights=setting.weights,
            store=store,
            batch=setting.batch,
            device=setting.device,
            dataset=Path(originals).absolute().name,
            about=system.about,
            note=system.note(),
            progress=setting.progress,
        )
        write_result(folder / f"{file_stem(system.system)}.json", result)
        results[system.system] = result
        done(result)
    return [results[system.system] for system in systems]


def _open(openers: Sequence[Opener], setting: Setting, target: str | None) -> tuple[list[System], System | None]:
    """All systems, each by a name of its own, and the one that codecs are matched to."""
    # Models first: the others need a scale. What another program left has its own.
    first = {index: opener(setting) for index, opener in enumerate(openers) if opener.func in (ModelSystem, Restored)}
    models = [system for system in first.values() if isinstance(system, ModelSystem)]
    if setting.scale is None and models:
        named = [model for model in models if model.system == target]
        setting = replace(setting, scale=(named or models)[0].scale)
    systems = [first[index] if index in first else opener(setting) for index, opener in enumerate(openers)]
    names = [system.system for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise EvaluationError(f"two systems are called '{name}'; give one another name, as in other={name}.")
    able = [system for system in systems if not isinstance(system, CodecSystem)]
    aim = next((s for s in able if (s.system == target if target else isinstance(s, ModelSystem))), None)
    if aim is None and target is not None:
        known = ", ".join(system.system for system in able) or "there is none"
        raise EvaluationError(f"codecs cannot be matched to '{target}'; choose from the systems compared: {known}.")
    for system in systems:
        if isinstance(system, CodecSystem) and system.needs_target:
            if aim is None:
                raise EvaluationError("codecs must be matched to a system; compare a model, too, such as nano-x16.")
            system.target = aim
    return systems, aim


def write_comparison(
    folder: str | Path,
    results: Sequence[SystemResult],
    *,
    metrics: Sequence[str] | None = None,
    title: str = "FaithEIR: comparison",
    pictures: int = 24,
    progress: bool = True,
) -> tuple[list[Path], list[str]]:
    """Tables, rate-distortion plots and the report of results: the files, and why some could not be written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = write_tables(folder, results, metrics, title)
    problems = []
    options: dict[str, Any] = {"metrics": metrics, "title": title, "pictures": pictures, "progress": progress}
    writers: dict[str, Callable[[], list[Path]]] = {
        "plots": lambda: write_plots(folder, results, metrics),
        "report": lambda: [write_report(folder / "report.html", results, **options)],
    }
    for what, write in writers.items():
        try:
            files += write()
        except FaithEIRError as error:  # the tables stand without it
            problems.append(f"the {what} could not be made: {error}")
    return files, problems
