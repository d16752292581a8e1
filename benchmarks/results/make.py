"""The tables and curves of docs/results.md, all from one command, as protocol.toml beside this file freezes them.

    python benchmarks/results/make.py --photographs DIR --networks DIR -o RUN [--page docs/results.md] [TABLE ...]

``--photographs`` holds the files that the protocol names, by their SHA-256; ``--networks`` the weights files of the
measures; ``--runs`` the models that configs/rivals.toml trains, for the table of them. Each table is a `compare` into
RUN/TABLE, so that a run that stopped continues, and its Markdown replaces what stands in the page between ``<!-- table
NAME -->`` and ``<!-- end NAME -->``; curves and the sheet of crops go to images/ beside the page. Run twice into two
folders, it gives the same page. What another library version measures is said, with both versions.
"""

import argparse
import hashlib
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from faitheir.comparison.compare import compare
from faitheir.comparison.methods import parse_methods
from faitheir.comparison.plots import rate_distortion, to_svg
from faitheir.comparison.produce import Setting
from faitheir.comparison.sheets import crop_sheet
from faitheir.comparison.tables import tables_of, to_markdown
from faitheir.errors import EvaluationError, FaithEIRError
from faitheir.evaluation.results import SystemResult
from faitheir.images import Picture, read_picture, write_picture
from faitheir.storage import write_atomic

HERE = Path(__file__).parent

#: Files of the networks, below --networks.
NETWORKS = {
    "alexnet": "alexnet_features.safetensors",
    "vgg16": "vgg16_features.safetensors",
    "niqe": "niqe_pris_params.npz",
}


def photographs(about: dict[str, Any], source: Path, folder: Path) -> Path:
    """A set's pictures as PNG in ``folder``, checked; the middle of each where the protocol says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in about["files"].items():
        path = source / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise EvaluationError(f"{path}: this is not the file that the protocol names; its SHA-256 differs.")
        target = folder / f"{path.stem}.png"
        if not target.is_file():
            rgb = read_picture(path).rgb
            if side := about.get("middle"):
                top, left = ((n - min(n, side)) // 2 for n in rgb.shape[:2])
                rgb = rgb[top : top + side, left : left + side].copy()
            write_picture(target, Picture(rgb))
    return folder


def in_one_block(result: SystemResult) -> SystemResult:
    """A model's lossy files as a row beside the others, not as a point of a curve, which such a table does not show."""
    of_curve = ("held_to", "curve") if result.kind == "model" else ()
    return replace(result, about={key: value for key, value in result.about.items() if key not in of_curve})


def other_versions(results: list[SystemResult], frozen: dict[str, str]) -> list[str]:
    """A line for each library that measured in another version than the protocol's."""
    found = {key: value for result in results for key, value in result.about.items() if key in frozen}
    return [f"{name} {found[name]}, not {want}" for name, want in frozen.items() if found.get(name, want) != want]


def put(page: Path, name: str, text: str) -> None:
    """Replace what the page holds between the two markers of ``name``."""
    whole = page.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not between.search(whole):
        marks = f"<!-- table {name} --> ... <!-- end {name} -->"
        raise EvaluationError(f"{page}: there is no place for table {name}: {marks}.")
    new = between.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", whole)
    write_atomic(page, new.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="only these tables of the protocol")
    parser.add_argument("--protocol", type=Path, default=HERE / "protocol.toml")
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/rivals"), help="where the rivals were trained")
    parser.add_argument("--page", type=Path, help="the Markdown page to write the tables into")
    parser.add_argument("--without", default="", metavar="SYSTEM,...", help="leave these systems out for now")
    args = parser.parse_args()
    protocol = tomllib.loads(args.protocol.read_text(encoding="utf-8"))
    weights = {network: args.networks / file for network, file in NETWORKS.items()}

    for table in protocol["tables"]:
        name = table["name"]
        if args.tables and name not in args.tables:
            continue
        systems = [s.replace("NETWORKS", str(args.networks)).replace("RUNS", str(args.runs)) for s in table["systems"]]
        systems = [s for s in systems if s not in args.without.split(",")]
        originals = photographs(protocol["sets"][table["set"]], args.photographs, args.output / "sets" / table["set"])
        setting = Setting(
            scale=table.get("scale"), metrics=tuple(table["metrics"]), weights=weights, protocol=protocol["measured_as"]
        )
        results = compare(
            originals, parse_methods(systems), args.output / name, setting=setting, target=table.get("target")
        )
        failed = [f"{r.system}: {p.picture}: {p.error}" for r in results for p in r.pictures if p.error]
        if failed:
            raise EvaluationError(f"table {name} has pictures without values: {'; '.join(failed[:3])}")
        if not table.get("plot"):
            results = [in_one_block(result) for result in results]
        shown = [*table["metrics"], *table.get("costs", ["bytes", "bits_per_pixel"])]
        kept = tables_of(results, shown)
        text = "\n".join(to_markdown(t) for t in kept if not table.get("only") or t.caption in table["only"])
        text = text.replace(str(args.runs), "RUNS").replace(str(args.networks), "NETWORKS")  # places say nothing
        if differing := other_versions(results, protocol["versions"]):
            text += f"\nMeasured with {'; '.join(differing)}.\n"
        write_atomic(args.output / f"{name}.md", text.encode())
        print(text)
        if args.page:
            put(args.page, name, text)
            if table.get("plot"):
                image = args.page.parent / "images" / f"results-{name}.svg"
                write_atomic(image, to_svg(rate_distortion(results, table["metrics"])))
        if places := table.get("crops"):
            shown_of = {name: tuple(place) for name, place in places.items()}
            sheet = crop_sheet(results, shown_of, size=table["crop_size"], captions=table["metrics"])
            folder = args.page.parent / "images" if args.page else args.output
            write_picture(folder / f"results-{name}.jpg", sheet, quality=85)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except FaithEIRError as error:
        raise SystemExit(f"Error: {error}") from None
