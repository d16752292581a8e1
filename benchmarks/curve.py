"""A run's losses and validation figures as a picture, from its log.

    python benchmarks/curve.py RUN [RUN ...] -o curve.svg

Several runs are stages: drawn one after the other. Needs matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

from faitheir.training.record import read_log

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    args = parser.parse_args()
    series: dict[str, tuple[list[float], list[float]]] = {}
    borders, offset = [], 0.0
    for run in args.runs:
        records = read_log(run)
        for record in records:
            for name, value in record.items():
                if name not in ("step", "crops_per_second", "learning_rate"):
                    steps, values = series.setdefault(name, ([], []))
                    steps.append(offset + record["step"])
                    values.append(value)
        offset += max((r["step"] for r in records), default=0)
        borders.append(offset)
    names = [n for n in series if not n.startswith("val_")] + [n for n in series if n.startswith("val_")]
    columns = 4
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.1 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        validation = name.startswith("val_")
        axis.plot(
            *series[name],
            color="#b35806" if validation else "#2166ac",
            marker="o" if validation else None,
            ms=3,
            lw=1.2,
        )
        axis.set_title(name.replace("val_", "validation: ").replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        for border in borders[:-1]:
            axis.axvline(border, color="0.6", lw=0.8, ls="--")
    figure.supxlabel("step", fontsize=9)
    figure.savefig(args.output)


if __name__ == "__main__":
    main()
