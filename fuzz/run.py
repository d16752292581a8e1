"""Fuzz what reads files: python fuzz/run.py [--inputs N | --minutes M] [--targets NAME,...] [--seed S] [--keep]

Inputs are made in processes of their own, which may crash, hang or grow; target, seed and number name each, so that it
can be made again. Prints a table of inputs, failures, the longest and the largest, and exits with 1 where
there was a failure; ``--keep`` puts what failed into fuzz/corpus, which tests/test_fuzz.py runs from then on.
``--atheris TARGET`` has atheris (pip install atheris), guided by coverage, look for inputs instead.
"""

import argparse
import faulthandler
import os
import random
import select
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

#: What counts as a failure besides an error that is not allowed.
MOST_SECONDS, MOST_BYTES = 20.0, 10**9
#: Inputs of one process for each of a target's shares: a fresh one now and then finds what state hides.
PORTION = 200


def made(name: str, seed: int, number: int, pool: list[bytes]) -> bytes:
    """The input of that number."""
    from mutate import mutate

    rng = random.Random(f"{name}:{seed}:{number}")
    return mutate(rng, rng.choice(pool), pool)


def pool_of(name: str) -> list[bytes]:
    """What is mutated: seeds, and what broke the target before."""
    from targets import TARGETS, corpus

    return [*TARGETS[name][1]().values(), *corpus(name).values()]


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def work(name: str, seed: int, first: int, last: int) -> None:
    """In a process of its own: before an input its number, after it what came of it and how large the process was."""
    from targets import attempt

    faulthandler.enable()
    # What C libraries print goes nowhere; our words have a descriptor of their own.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    pool = pool_of(name)
    attempt(name, pool[0])  # what it imports is no input's fault
    for number in range(first, last):
        data = made(name, seed, number, pool)
        print(f"{number}", file=out)
        try:
            outcome = attempt(name, data)
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"! {type(error).__name__}: {str(error)[:150]!r} in {Path(place.filename).name}:{place.lineno}"
        print(f"{number} {resident('VmHWM')} {outcome}", file=out)


@dataclass
class Tally:
    """What came of a target's inputs."""

    inputs: int = 0
    refused: int = 0
    longest: float = 0.0
    largest: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


def portion(name: str, seed: int, first: int, last: int, tally: Tally) -> None:
    """Inputs first..last in processes; where one breaks off or hangs, the rest goes into another."""
    while first < last:
        command = [sys.executable, __file__, "--work", name, str(seed), str(first), str(last)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        assert process.stdout is not None
        rest, current, since = b"", None, time.monotonic()
        late = False
        while True:
            wait = MOST_SECONDS * (1 if current is not None else 10) - (time.monotonic() - since)
            if not select.select([process.stdout], [], [], max(wait, 0))[0]:
                late = True
                process.kill()
                break
            read = os.read(process.stdout.fileno(), 65536)
            if not read:
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                number, _, told = line.decode().partition(" ")
                now = time.monotonic()
                if not told:
                    current, since = int(number), now
                    continue
                size, _, outcome = told.partition(" ")
                tally.inputs += 1
                tally.refused += outcome not in ("ok",) and not outcome.startswith("!")
                tally.longest = max(tally.longest, now - since)
                if int(size) > MOST_BYTES >= tally.largest:
                    tally.failures.append((int(number), f"{int(size) / 1e9:.2f} GB"))
                tally.largest = max(tally.largest, int(size))
                if outcome.startswith("!"):
                    tally.failures.append((int(number), outcome[2:]))
                current, first, since = None, int(number) + 1, now
        process.wait()
        process.stdout.close()
        if current is not None:
            tally.inputs += 1
            text = f"more than {MOST_SECONDS:g} s" if late else f"the process ended with {process.returncode}"
            tally.failures.append((current, text))
            first = current + 1
        elif first < last:
            raise SystemExit(f"the process of {name} ended with {process.returncode} between inputs")


def main() -> None:
    """The command."""
    from targets import SHARES, TARGETS, USUAL_SHARE, keep

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, help="in all; shared among the targets [default: 10000]")
    parser.add_argument("--minutes", type=float, help="go on for so long")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="put what fails into fuzz/corpus")
    parser.add_argument("--atheris", metavar="TARGET")
    options = parser.parse_args()
    if options.atheris:
        return with_atheris(options.atheris)
    names = options.targets.split(",")
    shares = {name: SHARES.get(name, USUAL_SHARE) for name in names}
    tallies, done = {name: Tally() for name in names}, dict.fromkeys(names, 0)
    end = time.monotonic() + options.minutes * 60 if options.minutes else None
    total = options.inputs or (None if end else 10_000)
    wanted = {name: total and total * share // sum(shares.values()) for name, share in shares.items()}
    while any(wanted[name] is None or done[name] < wanted[name] for name in names):
        for name in names:
            size = (
                PORTION * shares[name]
                if wanted[name] is None
                else min(PORTION * shares[name], wanted[name] - done[name])
            )
            portion(name, options.seed, done[name], done[name] + size, tallies[name])
            done[name] += size
            if end and time.monotonic() > end:
                wanted = done
                break
    print("| target | inputs | refused | failures | longest, s | largest, MB |\n|---|---|---|---|---|---|")
    for name, t in tallies.items():
        print(f"| {name} | {t.inputs} | {t.refused} | {len(t.failures)} | {t.longest:.2f} | {t.largest / 1e6:.0f} |")
    for name, tally in tallies.items():
        pool = pool_of(name) if tally.failures else []
        for number, text in tally.failures:
            data = made(name, options.seed, number, pool)
            where = f" -> {keep(name, data)}" if options.keep else ""
            print(f"{name} {options.seed} {number}: {text}{where}")
    sys.exit(any(tally.failures for tally in tallies.values()))


def with_atheris(name: str) -> None:
    """Until it is stopped, or something fails."""
    import tempfile

    import atheris
    from targets import attempt

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(pool_of(name)):
            (Path(folder) / str(number)).write_bytes(data)
        atheris.instrument_all()
        atheris.Setup(
            [sys.argv[0], folder, f"-timeout={MOST_SECONDS:.0f}", "-rss_limit_mb=1000"],
            lambda data: attempt(name, data),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], *map(int, sys.argv[3:6]))
    else:
        main()
