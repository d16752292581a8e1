r"""A speedrun: from random weights to a fixed quality, in as little processor time as a recipe can.

    python -m benchmarks.speedrun.run NAME --photographs DIR --networks DIR -o RUNS -- \
        configs/rivals.toml --only nano-x16-scratch --set data.train=PHOTOS

What stands after ``--`` are the arguments of ``faitheir train``. It trains once with each seed, on one thread; what it
leaves is measured on the small photographs of ../results/protocol.toml, through lossless files, and a dated record is
written beside this file: README.md there has the rules. What counts is processor time, from the start of the command
to the saved model: it depends little on what else the machine does. A seed that is finished is not trained again.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.results.make import NETWORKS, photographs

from faitheir.comparison.compare import compare
from faitheir.comparison.methods import parse_method
from faitheir.comparison.produce import Setting
from faitheir.errors import FaithEIRError
from faitheir.storage import write_atomic

HERE = Path(__file__).parent
PROTOCOL = HERE.parent / "results" / "protocol.toml"

#: What the means over the photographs must reach: LPIPS (vgg) at most, the thumbnail's PSNR in dB at least.
LPIPS_VGG, THUMBNAIL_PSNR = 0.545, 28.0
SEEDS = (1, 2)


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def trained(arguments: list[str], seed: int, folder: Path) -> dict[str, object]:
    """Train with one seed, unless that is done: the model's folder, processor and wall seconds."""
    done = folder / "time.json"
    if done.is_file():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "faitheir", "train", *arguments, "--set", f"seed={seed}", "--set", f"run={folder}"]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    if run.returncode:
        raise SystemExit(f"Error: seed {seed} ended with status {run.returncode}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"model": run.stdout.split()[-1], "processor": seconds, "wall": time.monotonic() - started}
    write_atomic(done, json.dumps(found).encode())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the record, such as muon-twice-as-fast")
    parser.add_argument("--photographs", type=Path, required=True, help="folder that holds the protocol's photographs")
    parser.add_argument("--networks", type=Path, required=True, help="folder of the measures' networks")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument("train", nargs="+", help="after --: arguments of faitheir train")
    args = parser.parse_args()
    weights = {network: args.networks / file for network, file in NETWORKS.items()}
    small = tomllib.loads(PROTOCOL.read_text(encoding="utf-8"))["sets"]["small"]
    originals = photographs(small, args.photographs, args.output / "small")

    runs = {seed: trained(args.train, seed, args.output / f"seed-{seed}") for seed in SEEDS}
    results = compare(
        originals,
        [parse_method(f"seed {seed}=model:{run['model']}") for seed, run in runs.items()],
        args.output / "measured",
        setting=Setting(metrics=("lpips_vgg", "dists", "psnr", "thumbnail_psnr"), weights=weights, protocol="paper"),
    )
    rows, met = [], True
    for run, result in zip(runs.values(), results, strict=True):
        s = result.summary
        met &= s["lpips_vgg"] <= LPIPS_VGG and s["thumbnail_psnr"] >= THUMBNAIL_PSNR
        rows.append(
            f"| {result.system} | {float(str(run['processor'])) / 60:.1f} | {float(str(run['wall'])) / 60:.1f} | "
            f"{s['lpips_vgg']:.4f} | {s['thumbnail_psnr']:.2f} | {s['dists']:.4f} | {s['psnr']:.2f} |"
        )
    # The recipe and what was set, but for paths, which are of one machine.
    options = zip(args.train[1::2], args.train[2::2], strict=True)
    shown = [Path(args.train[0]).name, *(part for option in options if "/" not in option[1] for part in option)]
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    record = [
        f"# {args.name}, {today}",
        "",
        f"`faitheir train {' '.join(shown)}`",
        "",
        f"{'The target is reached.' if met else 'The target is missed.'} On one thread of: {processor()}.",
        "",
        "| | processor minutes | minutes | LPIPS (vgg) | thumbnail PSNR (dB) | DISTS | PSNR (dB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
    ]
    args.records.mkdir(parents=True, exist_ok=True)
    write_atomic(args.records / f"{today}-{args.name}.md", "\n".join(record).encode())
    print("\n".join(record))


if __name__ == "__main__":
    try:
        main()
    except FaithEIRError as error:
        raise SystemExit(f"Error: {error}") from None
