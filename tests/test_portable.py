"""What is promised everywhere: the package imports where Unix's modules are not, and promises have their tests."""

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_table_of_promises_names_tests_that_exist() -> None:
    root = Path(__file__).parents[1]
    named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", (root / "docs" / "reliability.md").read_text("utf-8"))
    assert len(named) > 20
    for file, path in named:
        nodes: list[ast.AST] = [ast.parse((root / file).read_text("utf-8"))]
        for name in filter(None, path.split("::")):
            nodes = [
                node for parent in nodes for node in ast.iter_child_nodes(parent) if getattr(node, "name", "") == name
            ]
        assert nodes, file + path
