"""The Dockerfile and compose.yaml, as far as they can be checked where no Docker engine runs: neither is built here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def test_the_dockerfile_keeps_the_rules() -> None:
    """Those of hadolint that apply (by number), and what a service wants."""
    steps = instructions()
    names = [name for name, _ in steps]
    bases = [argument for name, argument in steps if name == "FROM"]
    assert all(re.search(r":\S*\d", base) and ":latest" not in base for base in bases)  # DL3006, DL3007
    assert "ADD" not in names  # DL3020
    assert "MAINTAINER" not in names  # DL4000
    assert names.count("ENTRYPOINT") == names.count("HEALTHCHECK") == 1  # DL4004, DL3012
    last = names[len(names) - names[::-1].index("FROM") :]
    user = next(argument for name, argument in reversed(steps) if name == "USER")
    assert re.fullmatch(r"[1-9]\d*", user)  # DL3002; by number, so that "run as non-root" can be checked
    assert last.index("USER") < last.index("ENTRYPOINT")
    for name, argument in steps:
        if name in ("ENTRYPOINT", "CMD"):
            assert argument.startswith("[")  # DL3025: signals reach the process
        if name == "WORKDIR":
            assert argument.startswith("/")  # DL3000
        if name == "RUN":
            assert "sudo" not in argument  # DL3004
            assert "cd " not in argument  # DL3003
            for install in re.findall(r"pip install .*", argument):
                assert "-c constraints.txt" in install  # DL3013: exact versions
    assert "PIP_NO_CACHE_DIR=1" in dict(steps)["ENV"] or any("PIP_NO_CACHE_DIR=1" in a for n, a in steps if n == "ENV")
    assert ("STOPSIGNAL", "SIGTERM") in steps


def test_what_is_copied_is_there_and_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name, argument in instructions():
        if name == "COPY" and "--from" not in argument:
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored


def test_versions_are_exact_for_all_that_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    exact = {
        re.sub(r"[-_.]+", "-", line.split("==")[0].lower())
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["serve"]]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        assert re.sub(r"[-_.]+", "-", name[0].lower()) in exact


def test_the_container_is_bounded() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for setting in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "mem_limit:", "pids_limit:"):
        assert setting in text
    assert '"127.0.0.1:8600:8600"' in text
    assert "FAITHEIR_TOKEN:?" in text


@pytest.mark.slow
def test_the_same_steps_give_a_server_that_starts(tmp_path: Path) -> None:
    """In a virtual environment that sees this one's packages: what is installed anew is this project itself."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", environment], check=True)
    python = environment / "bin" / "python"
    outer = [path for path in sys.path if path.endswith("site-packages")]
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "outer.pth").write_text("\n".join(outer), encoding="utf-8")
    command = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-c", "constraints.txt", ".[serve]"]
    installed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "hatchling" in installed.stderr:
        pytest.skip("hatchling is not installed, which builds the package: pip install hatchling")
    assert installed.returncode == 0, installed.stderr
    command = [environment / "bin" / "faitheir", "serve", "--help"]
    assert "--token" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    script = "import faitheir.server as s, pathlib; print(*pathlib.Path(s.__file__).parent.rglob('*'))"
    command = [python, "-I", "-c", script]
    files = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "example.jpg" in files
    assert "app.js" in files
