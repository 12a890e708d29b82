"""The house's one rule about imports: they point down its floors, towards the maths, from room to room.

A room is a folder of difnet/ or a file at its top. An import inside a function counts like any other, since it is an
arrow all the same; one for the type checker alone (`if TYPE_CHECKING`) does not.
"""

import ast
import importlib.util
import json
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

SCRIPT = importlib.util.spec_from_file_location("rooms", REPOSITORY / "docs" / "rooms.py")
assert SCRIPT and SCRIPT.loader
rooms = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(rooms)

ORDER = [  # from the ground up
    "errors", "meta", "maths", "system", "config", "catalog", "topology", "data", "models", "tasks", "algorithms",
    "launch_models", "agent", "workload", "record", "checking", "exchange", "places", "runtime", "screen", "report",
    "after_training", "doctor", "cli", "__main__", "difnet",
]  # fmt: skip
MOST_FILES, MOST_FOLDERS = 8, 18


def imports_of(*names: str) -> set[str]:
    """Dotted names that files of these rooms, or these files (as "exchange/wire"), import anywhere."""
    found = set()
    for path, imports in rooms.IMPORTS.items():
        file = str(path.relative_to(rooms.PACKAGE).with_suffix(""))
        if rooms.room_of(path) in names or file in names:
            found |= imports.all
    assert found or names, names
    return found


def outer(names: set[str]) -> set[str]:
    """The packages of others among dotted names."""
    return {name.split(".")[0] for name in names} - {"difnet"}


def files_that_import(packages: set[str], late: bool = False) -> set[str]:
    """The files that import one of these packages at their top; or inside a function."""
    return {
        str(path.relative_to(rooms.PACKAGE).with_suffix(""))
        for path, imports in rooms.IMPORTS.items() if outer(imports.late if late else imports.early) & packages
    }  # fmt: skip


def test_the_house_has_few_rooms_and_every_room_a_floor():
    files = list(rooms.PACKAGE.glob("*.py"))
    folders = {path.parent for path in rooms.PACKAGE.glob("*/*.py")} - {rooms.PACKAGE / "_launch"}
    assert len(files) <= MOST_FILES and len(folders) <= MOST_FOLDERS
    assert sorted(ORDER) == rooms.ROOMS, "give a new room a place in ORDER, and take out one that is gone"


def test_no_arrow_points_up():
    """What is nearer to the maths imports nothing that is farther from it; a door opens on use alone."""
    wrong = []
    for path, imports in rooms.IMPORTS.items():
        room, file = rooms.room_of(path), path.relative_to(rooms.PACKAGE)
        for target in rooms.ours(imports.all) - {room}:
            if (room, target) in rooms.DOORS:
                if target in rooms.ours(imports.early):
                    wrong.append(f"{file} imports {target} at its top: that door opens on use")
            elif ORDER.index(target) >= ORDER.index(room):
                wrong.append(f"{file} imports {target}, which stands above it")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", sorted({path.parent.name for path in rooms.PACKAGE.glob("*/__init__.py")}))
def test_a_room_says_what_it_answers_and_what_it_imports(room):
    """Its docstring begins with the question, and ends with the rooms it imports: all of these, and no other."""
    text = ast.get_docstring(ast.parse((rooms.PACKAGE / room / "__init__.py").read_text()))
    assert text and rooms.question(room).endswith("?"), f"difnet/{room}: which question does it answer?"
    told = re.search(r"^Imports: ([\w, \n]+)\.$|^Imports no other room\.$", text, re.MULTILINE)
    assert told, f"difnet/{room}: its docstring must end with 'Imports: …' or 'Imports no other room.'"
    assert set(re.split(r",\s*", told[1]) if told[1] else []) == rooms.arrows()[room]


def test_nothing_imports_itself_by_a_detour():
    """No cycle among the files of the package, in the imports that happen when one is loaded."""
    modules = {".".join(p.relative_to(rooms.PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
               for p in rooms.IMPORTS}  # fmt: skip

    def target(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    waiting = {
        module: {target(name) for name in rooms.IMPORTS[path].early if target(name) in modules} - {module, "difnet"}
        for module, path in modules.items()
    }
    while ready := [module for module, targets in waiting.items() if not targets & waiting.keys()]:
        for module in ready:
            del waiting[module]
    assert not waiting, f"these import each other in a circle: {sorted(waiting)}"


def test_the_picture_of_the_rooms_is_the_one_of_these_imports():
    drawn = rooms.PICTURE.read_text(encoding="utf-8")
    assert drawn == rooms.picture(), "the rooms have changed: python docs/rooms.py draws them anew"


@pytest.mark.parametrize("names", [("meta", "maths"), ("algorithms", "tasks", "models")], ids=str)
def test_the_maths_knows_no_sockets_files_clocks_or_processes(names):
    """Nor random numbers that are not handed to it; `seeding` makes the generators, `spectra` a fixed start vector."""
    allowed = {"collections", "typing", "math", "itertools", "statistics", "enum", "functools", "dataclasses",
               "contextlib", "difflib", "torch", "numpy", "networkx", "hashlib"}  # fmt: skip
    assert outer(imports_of(*names)) <= allowed, f"{names} import {sorted(outer(imports_of(*names)) - allowed)}"


def test_the_loop_of_an_agent_knows_no_transport():
    """It is handed `exchange`."""
    names = imports_of("agent")
    assert rooms.ours(names) <= {"algorithms", "meta", "maths"}
    assert outer(names) <= {"collections", "numpy", "torch", "typing"}


def test_messages_and_links_are_pure():
    """How a message is bytes, and what a link keeps, is known without a socket, a clock or a file."""
    names = imports_of("exchange/wire", "exchange/links")
    assert outer(names) <= {"typing", "dataclasses", "collections", "math", "msgpack", "numpy"}
    assert {name for name in names if name.startswith("difnet.")} <= {"difnet.errors.WireError", "difnet.exchange.wire"}


def test_zeromq_lives_in_the_sockets_and_the_control_plane():
    """The machine's description and the doctor ask for its version; those imports are inside functions."""
    assert files_that_import({"zmq"}) == {"exchange/sockets", "exchange/registry", "exchange/control"}
    assert files_that_import({"zmq"}, late=True) == {"system/machine", "doctor/software"}
    plain = {"socket", "asyncio", "http"}
    assert files_that_import(plain) | files_that_import(plain, late=True) == {
        "exchange/addresses", "exchange/knocking", "exchange/proxy", "report/web_server", "system/tampering"
    }  # fmt: skip


def test_the_screen_knows_the_record_and_no_runtime():
    """Neither do events know anything of ours, so that whoever shows them never knows which runtime it watches."""
    assert rooms.ours(imports_of("screen")) <= {"maths", "record", "screen"}
    assert outer(imports_of("screen/dashboard", "screen/lines", "screen/charts")) <= {
        "math", "collections", "dataclasses", "statistics", "typing", "itertools", "rich"}  # fmt: skip
    assert rooms.ours(imports_of("record/events")) == set()


def test_nothing_received_or_read_can_run():
    """No pickle, no eval or exec, no torch.load, anywhere in the package; one file writes a state_dict for others."""
    forbidden_modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}
    found = []
    for path, imports in rooms.IMPORTS.items():
        found += [f"{path.name} imports {name}" for name in outer(imports.all) & forbidden_modules]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            if call == "torch.save" and path == rooms.PACKAGE / "after_training" / "export.py":
                continue
            if call in ("eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen"):
                found.append(f"{path.name}:{node.lineno} calls {call}")
            if call.endswith(("np.load", "numpy.load", "read_gpickle")):
                found.append(f"{path.name}:{node.lineno} calls {call}")
            if any(k.arg in ("allow_pickle", "shell") and ast.unparse(k.value) != "False" for k in node.keywords):
                found.append(f"{path.name}:{node.lineno} allows pickle or a shell")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["bench", "tests", "docs", "difnet"])
def test_what_programs_within_texts_import_is_there(folder):
    """Also in strings, docstrings and fenced blocks, which nothing else reads before they are run."""
    wrong = []
    for path in sorted((REPOSITORY / folder).rglob("*")):
        if path.suffix not in (".py", ".md"):
            continue
        text = path.read_text(encoding="utf-8")
        for module, names in re.findall(r"from (difnet[\w.]*) import (\w+(?:, \w+)*)", text):
            there = importlib.import_module(module)
            wrong += [f"{path.relative_to(REPOSITORY)}: {module} has no {name}" for name in names.split(", ")
                      if not hasattr(there, name) and not importlib.util.find_spec(f"{module}.{name}")]  # fmt: skip
    assert not wrong, "\n".join(wrong)


HEAVY = ["torch", "numpy", "networkx", "zmq", "rich", "pydantic", "msgpack", "safetensors", "matplotlib", "psutil"]


@pytest.mark.parametrize("words", [["--help"], ["launch", "--help"], ["simulate", "--help"],
                                   ["topology", "--help"], ["data", "--help"],
                                   ["watch", "--help"], ["doctor", "--help"]], ids=" ".join)  # fmt: skip
def test_help_imports_nothing_heavy(words):
    """Help and completion answer at once; what is heavy is imported by what needs it."""
    program = (
        "import json, sys\n"
        "from difnet.cli import main\n"
        f"sys.argv = ['difnet', *{words!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert json.loads(ended.stderr.splitlines()[-1]) == []


def test_a_launcher_loads_no_torch():
    """It only listens and writes: torch would be a hundred megabytes, and seconds before the first word."""
    program = "import sys, difnet.runtime.launcher, difnet.record.past; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=60, check=False).returncode == 0
