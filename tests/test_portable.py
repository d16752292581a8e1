"""The package can be imported where Unix's modules are not: nothing but functions imports them."""

import pkgutil
import subprocess
import sys

import faitheir

HIDDEN = ("resource", "fcntl", "termios", "pwd", "grp")

CODE = f"""
import sys
for name in {HIDDEN}:
    sys.modules[name] = None
# What others ask for is theirs: subprocess and multiprocessing know Windows by other signs.
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
"""


def test_every_module_imports_without_those_of_unix() -> None:
    found = [module.name for module in pkgutil.walk_packages(faitheir.__path__, "faitheir.")]
    modules = [name for name in found if not name.endswith("__main__")]
    assert {"faitheir.storage", "faitheir.untrusted", "faitheir.training.loop"} <= {*modules}
    run = subprocess.run([sys.executable, "-c", CODE, *modules], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
