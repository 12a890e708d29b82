"""A container engine and difnet's image, once per session, for tests marked `docker`.

What is dear to make and the same for every session (the base image, the wheels) is kept in `tests/` of difnet's cache:
the first session takes a minute longer than the next.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from difnet.errors import EnvironmentLacks
from difnet.places._compose_file import VOLUME
from difnet.system.folders import cache_folder
from difnet.system.lifetime import die_with_parent
from tests.conftest import REPOSITORY, until
from tests.places.engine import SEARCHED, Engine
from tests.places.engine import engine as private_engine

BASE, IMAGE = "difnet-base:test", "difnet:test"
# What a container never reads.
NOT_IN_THE_BASE = ["var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*"]
NOT_FILES = ["dev/*", "proc/*", "sys/*"]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A private container engine; the tests that ask for it are skipped where none can run."""
    folder = Path(tempfile.mkdtemp(prefix="dn"))  # a short path: a socket's has at most 107 bytes
    try:
        with private_engine(folder) as running:
            yield running
    except EnvironmentLacks as lack:
        pytest.skip(str(lack))
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # already gone, unless there was no engine


@pytest.fixture(autouse=True)
def no_container_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No container, volume or network outlives the test that made it, but for the one volume of checkpoints."""
    engine = request.getfixturevalue("engine") if "engine" in request.fixturenames else None
    yield
    left = [what for what in engine.left() if what != f"volume {VOLUME}"] if engine else []
    assert not left, f"left behind in the engine: {', '.join(left)}"


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """A base image with Python and nothing else, of this machine's own distribution and mirror: its tag."""
    suite, mirror = _distribution()
    with _kept(f"base-{suite}.tar") as archive:
        if not archive.exists():
            _bootstrap(engine, suite, mirror, archive)
        imported = engine.docker("import", archive, BASE)
    assert imported.status == 0, imported.err
    return BASE


@pytest.fixture(scope="session")
def image(engine: Engine, base: str) -> str:
    """difnet's image, built without any network from a clean copy of this checkout: its tag."""
    context = engine.folder / "context"
    _copy_checkout(context)
    version = engine.docker("run", "--rm", base, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    wanted = hashlib.sha256((context / "pyproject.toml").read_bytes() + (context / "constraints.txt").read_bytes())
    with _kept(f"wheels-{version.out.strip()}-{wanted.hexdigest()[:16]}") as wheels:
        if not wheels.exists():
            _download(context, version.out.strip(), wheels)
        shutil.copytree(wheels, context / "wheels")
    built = engine.docker(
        "build", "--force-rm", "--network", "none", "--build-arg", f"BASE={base}",
        "--file", context / "launch/places/Dockerfile", "--tag", IMAGE, context, timeout_s=300,
    )  # fmt: skip
    shutil.rmtree(context)
    assert built.status == 0, built.out[-3000:] + built.err[-3000:]
    return IMAGE


@contextmanager
def _kept(name: str) -> Iterator[Path]:
    """A file or folder of the cache, while nobody else makes it; what a killed session left half made goes."""
    folder = cache_folder().parent / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        until(lambda: _taken(lock), "another session to make what it keeps", timeout_s=900)
        for old in folder.glob("partial-*"):
            shutil.rmtree(old)
        yield folder / name


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _distribution() -> tuple[str, str]:
    """This machine's suite and the mirror it comes from, in apt's own words."""
    suite = ""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            suite = line.partition("=")[2].strip('"')
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True, timeout=30,
    ).stdout.splitlines() if shutil.which("apt-get") else []  # fmt: skip
    for target in targets:
        codename, _, mirror = target.partition(" ")
        if codename == suite:
            return suite, mirror
    pytest.skip(f"apt knows no mirror of this machine's own suite ({suite or 'unknown'}) to make a base image from")


def _bootstrap(engine: Engine, suite: str, mirror: str, archive: Path) -> None:
    """Make the base image as an archive. The engine's folder holds what is in the making, and goes with it."""
    root, made = engine.folder / "root", archive.with_name(f"partial-{archive.name}")
    made.mkdir()
    # What it mounts, and whatever runs under it, goes with these namespaces, also when the session is killed.
    private = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    _checked(
        [*private, "debootstrap", "--variant=minbase", "--include=python3-venv", suite, root, mirror], timeout_s=400
    )
    excluded = [f"--exclude=./{pattern}" for pattern in NOT_IN_THE_BASE + NOT_FILES]
    _checked(["tar", "--create", "--file", made / "archive", "--directory", root, *excluded, "."], timeout_s=60)
    (made / "archive").rename(archive)
    made.rmdir()
    shutil.rmtree(root)


def _download(context: Path, version: str, wheels: Path) -> None:
    """Fetch the wheels that the image needs, for its Python, from where this machine's pip finds packages."""
    made = wheels.with_name(f"partial-{wheels.name}")
    _checked(
        [sys.executable, "-m", "pip", "download", "--quiet", "--dest", made, "--only-binary", ":all:",
         "--python-version", version, "--constraint", context / "constraints.txt", f"{context}[viz]", "hatchling"],
        timeout_s=400,
    )  # fmt: skip
    for old in wheels.parent.glob("wheels-*"):
        shutil.rmtree(old)
    made.rename(wheels)


def _checked(command: list[str | Path], timeout_s: float) -> None:
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "PATH": SEARCHED}, capture_output=True, text=True,
        timeout=timeout_s, stdin=subprocess.DEVNULL, preexec_fn=partial(die_with_parent, os.getpid()),
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-1500:]
        pytest.skip(f"no image can be made on this machine: {command[0]} ended with status {done.returncode}: {said}")


def _copy_checkout(folder: Path) -> None:
    """What git would commit of this checkout, as it is now; no build, no cache, no environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, check=True,
        capture_output=True, text=True, timeout=30,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
