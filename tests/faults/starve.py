"""python starve.py CASE MODEL FOLDER: do a case with ever more memory, until it succeeds; prints what came of each.

Not the checkpoint: safetensors, written in Rust, ends the process where memory is short, which is what the kill tests
of training are about. The limit is on the address space of this process (RLIMIT_AS), beyond what it has once everything
is imported and has run once.
"""

import json
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import test_faults

from faitheir.errors import FaithEIRError, reason
from faitheir.images import Picture, write_picture
from faults import leftovers

STEP, MOST = 3 << 20, 400 << 20


def size() -> int:
    """Address space of this process, in bytes."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def main(name: str, model: Path, folder: Path) -> None:
    """Print a line of JSON with the number of refusals, and the texts of them."""
    photographs = folder / "photographs"
    photographs.mkdir(parents=True)
    for index in range(5 if name == "batch" else 2):
        rgb = np.random.default_rng(index).integers(0, 256, (600, 900, 3), dtype=np.uint8)
        write_picture(photographs / f"{index}.png", Picture(rgb))
    case = {
        "thumbnail": lambda: test_faults.thumbnail_case(600, 900),
        "batch": lambda: test_faults.batch_case(model, photographs),
        "evaluation": lambda: test_faults.evaluation_case(model, photographs),
    }[name]()
    out = folder / "out"
    out.mkdir()
    case.act(out)
    texts: list[str] = []
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for room in range(0, MOST, STEP):
        shutil.rmtree(out)
        out.mkdir()
        resource.setrlimit(resource.RLIMIT_AS, (size() + room, hard))
        refused = None
        try:
            case.act(out)
        except FaithEIRError as error:
            refused = str(error)
        except (MemoryError, RuntimeError) as error:  # torch's, in loading a model: what the command line makes of it
            assert name == "evaluation"
            refused = reason(error)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        assert leftovers(out) == [], leftovers(out)
        case.check(out, refused is None)
        if refused is None:
            break
        texts.append(refused)
    case.act(out)
    case.check(out, True)
    assert leftovers(out) == []
    print(json.dumps({"room": room, "texts": texts}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
