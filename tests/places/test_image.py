"""The image: small, without rights, and able to run a network with nothing to write to but /tmp."""

import json

import pytest

import difnet
from tests.conftest import strict_json
from tests.places.engine import Engine

pytestmark = pytest.mark.docker

CONFINED = [
    "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges",
]  # fmt: skip


def confined(engine: Engine, image: str, *command: str) -> str:
    """What a command says in a container that has no rights."""
    done = engine.docker(*CONFINED, "--entrypoint", command[0], image, *command[1:])
    assert done.status == 0, done.err
    return done.out


def test_a_network_runs_on_a_read_only_root_without_rights(engine: Engine, image: str) -> None:
    words = ["launch", "--topology", "path_graph(n=2)", "--iterations", "5", "--runs", "/tmp/runs", "--json"]
    done = engine.docker(*CONFINED, image, *words)
    assert done.status == 0, done.err
    summary = strict_json(done.out)
    assert (summary["state"], summary["iterations"], summary["engine"]) == ("done", 5, "traced")


def test_it_has_the_version_of_the_checkout(engine: Engine, image: str) -> None:
    assert difnet.__version__ in engine.docker(*CONFINED, image, "--version").out


def test_it_runs_as_a_user_with_a_fixed_number_and_no_capabilities(engine: Engine, image: str) -> None:
    status = dict(line.split(":\t", 1) for line in confined(engine, image, "cat", "/proc/self/status").splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
    assert {int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_runs_belongs_to_that_user_and_so_does_a_volume_put_over_it(engine: Engine, image: str) -> None:
    try:
        made = engine.docker(*CONFINED, "--volume", "kept:/runs", "--entrypoint", "touch", image, "/runs/one")
        assert made.status == 0, made.err
    finally:
        assert engine.docker("volume", "rm", "kept").status == 0


def test_nothing_is_inside_that_only_a_build_or_a_test_needs(engine: Engine, image: str) -> None:
    # One program that says which of them it finds; the interpreter is the control, which must be found.
    look = """
import importlib.util, json, shutil, sys
from pathlib import Path
import difnet
def compiled(source):  # as the import system sees it: for this very state of the source
    kept = Path(importlib.util.cache_from_source(source))
    return kept.exists() and int.from_bytes(kept.read_bytes()[8:12], "little") == int(source.stat().st_mtime)
site = Path(difnet.__file__).parent.parent
programs = ["python3", "gcc", "g++", "cc", "c++", "clang", "pip", "pytest"]
modules = ["torch", "matplotlib", "pip", "pytest", "hypothesis", "hatchling", "mypy"]
print(json.dumps({
    "programs": [p for p in programs if shutil.which(p)],
    "modules": [m for m in modules if importlib.util.find_spec(m)],
    "folders": [f for f in ("torch/lib", "torch/test", "torch/include") if (site / f).exists()],
    "kept": [str(path) for top in ("/opt", "/tmp", "/home", "/runs", "/build") for path in Path(top).rglob("*")
             if path.suffix in (".whl", ".pyi") or path.name in ("pip", "tests") or path.parts[1] == "build"],
    "uncompiled": [f for f in ("torch", "sympy", "networkx", "difnet", "matplotlib.figure", "difnet.runtime.host")
                   if not compiled(Path(importlib.util.find_spec(f).origin))],
}))"""
    found = json.loads(confined(engine, image, "python3", "-c", look))
    assert found["programs"] == ["python3"]
    assert found["modules"] == ["torch", "matplotlib"]
    assert found["folders"] == ["torch/lib"]
    assert not found["kept"] and not found["uncompiled"]


def test_it_is_small_and_says_what_it_is(engine: Engine, image: str) -> None:
    (described,) = json.loads(engine.docker("image", "inspect", image).out)
    assert described["Size"] < 0.95e9
    assert described["Config"]["User"] == "10001:10001"
    assert described["Config"]["Entrypoint"] == ["difnet"]
    assert described["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
