"""Systems side by side: each makes its files, all are measured under one protocol, and one set of tables shows them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faitheir.comparison.methods import Spec, open_method
from faitheir.comparison.plots import write_plots
from faitheir.comparison.report import write_report
from faitheir.comparison.systems import CodecSystem, ModelSystem, Setting, System, Target
from faitheir.comparison.tables import write_tables
from faitheir.errors import EvaluationError, FaithEIRError
from faitheir.evaluation.evaluate import evaluate
from faitheir.evaluation.pairs import list_originals
from faitheir.evaluation.results import Output, SystemResult, file_stem, write_result
from faitheir.evaluation.store import Store


@dataclass(frozen=True)
class Measuring:
    """How everything is measured; see ``evaluate``."""

    metrics: Sequence[str] | None = None
    batch: int = 16
    progress: bool = True


def compare(
    originals: str | Path,
    specs: Sequence[Spec],
    output: str | Path,
    *,
    setting: Setting | None = None,
    scale: int | None = None,
    target: str | None = None,
    measuring: Measuring | None = None,
    done: Callable[[SystemResult], None] = lambda _: None,
) -> list[SystemResult]:
    """Make and measure every system, and write ``output/SYSTEM.json`` for each, in the order of ``specs``.

    ``scale``: of thumbnails that are not a model's; by default the target's, or 16. ``target``: the system that codecs
    are held to, by its name; by default the first model. ``done``: called with each result once it is on disk; what
    was computed before a run stopped is not computed again.
    Raises EvaluationError before any work where systems or the target cannot be as asked for; PairingError; and what a
    system raises that is no picture's fault.
    """
    measuring = Measuring() if measuring is None else measuring
    setting = Setting() if setting is None else setting
    folder = Path(output)
    photographs = list_originals(originals)
    made: dict[str, Mapping[str, Output]] = {}
    systems, aim = _open(specs, setting, scale, target, made)
    store = Store(folder / "cache")
    results: dict[str, SystemResult] = {}
    # The target comes first, whatever its place, for codecs look its files up.
    for system in sorted(systems, key=lambda system: system is not aim):
        outputs = system.outputs(photographs, folder / file_stem(system.system), store, progress=measuring.progress)
        made[system.system] = outputs
        result = evaluate(
            photographs,
            outputs,
            system=system.system,
            kind=system.kind,
            scale=system.scale,
            protocol=setting.protocol,
            metrics=measuring.metrics,
            weights=setting.weights,
            store=store,
            batch=measuring.batch,
            device=setting.device,
            dataset=Path(originals).absolute().name,
            about=system.about,
            note=system.note(outputs),
            progress=measuring.progress,
        )
        write_result(folder / f"{file_stem(system.system)}.json", result)
        results[system.system] = result
        done(result)
    return [results[system.system] for system in systems]


def _open(
    specs: Sequence[Spec],
    setting: Setting,
    scale: int | None,
    target: str | None,
    made: Mapping[str, Mapping[str, Output]],
) -> tuple[list[System], System | None]:
    """All systems, each by a name of its own, and the one that codecs are held to."""
    aim: list[System] = []

    def held_to() -> Target:
        return Target(aim[0].system, made[aim[0].system])

    # Models first: the others need a scale.
    models = {index: open_method(spec, setting, held_to) for index, spec in enumerate(specs) if spec.kind == "model"}
    if scale is None and models:
        named = [system for system in models.values() if system.system == target]
        scale = (named or list(models.values()))[0].scale
    setting = setting if scale is None else replace(setting, scale=scale)
    systems = [
        models[index] if index in models else open_method(spec, setting, held_to) for index, spec in enumerate(specs)
    ]
    names = [system.system for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise EvaluationError(f"two systems are called '{name}'; give one another name, as in other={name}.")
    able = [system for system in systems if not isinstance(system, CodecSystem)]
    if target is None:
        aim += [system for system in able if isinstance(system, ModelSystem)][:1]
    else:
        aim += [system for system in able if system.system == target]
        if not aim:
            known = ", ".join(system.system for system in able) or "there is none"
            raise EvaluationError(f"codecs cannot be held to '{target}'; choose of the systems compared: {known}.")
    if not aim and len(able) < len(systems):
        raise EvaluationError("codecs must be held to a system; compare a model, too, such as nano-x16.")
    return systems, aim[0] if aim else None


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

    try:
        files += write_plots(folder, results, metrics)
    except FaithEIRError as error:  # the tables stand without them
        problems.append(f"the plots could not be made: {error}")
    report = folder / "report.html"
    try:
        write_report(report, results, metrics=metrics, title=title, pictures=pictures, progress=progress)
        files.append(report)
    except FaithEIRError as error:
        problems.append(f"the report could not be made: {error}")
    return files, problems
