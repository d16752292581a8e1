"""The model card of a trained model, filled from its run."""

import json
from pathlib import Path

from faitheir.config import to_dict
from faitheir.models import parameter_table
from faitheir.training.config import TrainConfig
from faitheir.training.record import ENVIRONMENT_FILE, read_log

_FIGURES = {
    "val_psnr": ("PSNR of the restored picture, RGB", "{:.2f} dB"),
    "val_psnr_bicubic": ("PSNR of bicubic reduction and enlargement at the same scale", "{:.2f} dB"),
    "val_ssim": ("SSIM of the restored picture, RGB", "{:.4f}"),
    "val_distance": ("perceptual distance (features of {network}, unweighted; trained on)", "{:.3f}"),
    "val_psnr_thumbnail": ("thumbnail against the bicubic thumbnail, PSNR", "{:.2f} dB"),
    "val_bits_per_pixel": ("bits per pixel of the PNG thumbnail, with metadata", "{:.4f}"),
}


def model_card(
    config: TrainConfig, run: Path, step: int, photographs: int, figures: dict[str, float] | None = None
) -> str:
    """Markdown with the Hub's front matter: what the model is, how and on what it was trained, and its figures.

    ``figures``: the validation of these weights; by default the log's last validation, with its step. What a run
    does not know (licences, known failures) is left for whoever publishes the model to fill in.
    """
    records = read_log(run)
    if figures is None:
        figures = next((record for record in reversed(records) if "val_psnr" in record), None)
    total = sum(parameter_table(config.model).values())
    codec = config.model.codec
    front = ["---", "library_name: faitheir", "pipeline_tag: image-to-image"]
    front += [f"base_model: {config.model.backbone.base}"] if config.model.backbone.kind == "turbo" else []
    front += ["tags: [image-rescaling, super-resolution, learned-compression]", "---"]
    lines = [
        *front,
        f"# {config.model.name}",
        "",
        f"Reduces a photograph to a thumbnail {codec.scale} times smaller on each side and restores it, with the "
        "method of *Faithful Extreme Image Rescaling with Learnable Reversible Transformation and Semantic Priors* "
        f"(arXiv 2605.00605), backbone `{config.model.backbone.kind}`: {total:,} parameters.",
        "",
        "**Detail is generated.** It is plausible and in its place, not what was there. Not for evidence, documents, "
        "medical pictures or identification.",
        "",
        "## Training",
        "",
        f"{step:,} of {config.steps:,} steps with crops of {config.data.crop} x {config.data.crop}, "
        f"{config.batch} a step, from {photographs:,} photographs (`{Path(config.data.train).name}`)"
        + (f", starting from `{config.init}`." if config.init else ", from random weights."),
        "",
        *_machines(run),
        *_time(config, records),
        "",
        "## Figures",
        "",
        *_table(config, figures),
        "",
        "## To fill in before publishing",
        "",
        "- The photographs' sources and licences, and the licence of these weights (`license:` in the lines above).",
        "- Known failures, from looking at restored pictures: faces, text, fine repeated structure.",
        "",
        "## Configuration",
        "",
        "```json",
        json.dumps(to_dict(config), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _machines(run: Path) -> list[str]:
    try:
        starts = json.loads((run / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        return [
            f"- from step {s['from_step']:,}: {s['processes']} process(es), {s['device']}, "
            + ", ".join(f"{k} {v}" for k, v in s["versions"].items() if k in ("faitheir", "torch"))
            for s in starts
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _time(config: TrainConfig, records: list[dict[str, float]]) -> list[str]:
    """Hours of training, from the speed that was logged: validation and saving are not in it."""
    seconds, before = 0.0, 0.0
    for record in records:
        if record.get("crops_per_second"):
            seconds += (record["step"] - before) * config.batch / record["crops_per_second"]
            before = record["step"]
    return [f"- {seconds / 3600:.1f} hours of steps, validation and saving not counted"] if seconds else []


def _table(config: TrainConfig, figures: dict[str, float] | None) -> list[str]:
    if figures is None:
        return ["No validation was run (`data.val`, `val_every`)."]
    network = config.losses.features[0].network if config.losses.features else ""
    rows = [
        f"| {label.format(network=network)} | {form.format(figures[key])} |"
        for key, (label, form) in _FIGURES.items()
        if key in figures
    ]
    count = f"{config.val_count} photographs of `{Path(config.data.val or '').name}`"
    return [
        f"At step {int(figures['step']):,}, means over at most {count}, through the thumbnail file:",
        "",
        "| | |",
        "| --- | --- |",
        *rows,
    ]
