"""The house's one rule about imports: they point up, towards the maths. An arrow that points down is named here.

An import inside a function counts like any other, since it is an arrow all the same; one for the type checker alone
(`if TYPE_CHECKING`) does not.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import difnet

PACKAGE = Path(difnet.__file__).parent

LAYERS = {
    "errors": "errors version meta",
    "maths": "maths",
    "plug-ins": "algorithms models",
    "system": "system data tasks",
    "descriptions": "catalog config topology launch_models agent",
    "workload": "workload",
    "record": "record",
    "exchange": "exchange places",
    "runtimes": "runtime",
    "faces": "screen report after_training doctor",
    "command line": "difnet cli __main__",
}
DOWN = {  # arrows against the rule, each with its reason; all are taken only when they are used
    ("difnet", "*"): "the package's own front door, difnet.launch(...), is a face that opens on use",
    ("record", "report"): "run.plot is a door from a run to its pictures, which are drawn from runs",
}
RANK = {module: rank for rank, modules in enumerate(LAYERS.values()) for module in modules.split()}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules.split()}


def module_of(path: Path) -> str:
    """The name a file has in LAYERS: its stem, or the package below difnet that it belongs to."""
    inside = path.relative_to(PACKAGE)
    if len(inside.parts) > 1:
        return inside.parts[0]
    return "difnet" if inside.stem == "__init__" else inside.stem


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / "_launch"))


class Imports(ast.NodeVisitor):
    """What a file imports, as dotted names; `late` are those inside functions."""

    def __init__(self, tree: ast.AST) -> None:
        self.early: set[str] = set()
        self.late: set[str] = set()
        self._depth = 0
        self.visit(tree)

    @property
    def all(self) -> set[str]:
        return self.early | self.late

    def _add(self, name: str) -> None:
        (self.late if self._depth else self.early).add(name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "relative imports hide where an arrow points"
        for alias in node.names:
            self._add(f"{node.module}.{alias.name}")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1


IMPORTS = {path: Imports(ast.parse(path.read_text())) for path in sources()}


def ours(names: set[str]) -> set[str]:
    """The modules of difnet among dotted names, as LAYERS calls them."""
    inner = {name.split(".")[1] for name in names if name.startswith("difnet.")}
    known = {module_of(path) for path in IMPORTS}
    return {name if name in known else "difnet" for name in inner} | ({"difnet"} if "difnet" in names else set())


def outer(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - {"difnet"}


def imported_by(*modules: str) -> set[str]:
    """Dotted names that files of these modules import anywhere."""
    return {name for path, imports in IMPORTS.items() if module_of(path) in modules for name in imports.all}


def test_every_file_has_a_layer_and_every_name_a_file():
    files = {module_of(path) for path in IMPORTS}
    assert files - set(RANK) == set(), "give these a layer in LAYERS"
    assert set(RANK) - files == set(), "these are gone: take them out of LAYERS"


def test_no_arrow_points_down():
    """What is nearer to the maths imports nothing that is farther from it."""
    wrong = []
    for path, imports in IMPORTS.items():
        if (module := module_of(path)) not in RANK:
            continue
        for target in ours(imports.all) & set(RANK) - {module}:
            allowed = {(module, target), (module, "*")} & set(DOWN) and target not in ours(imports.early)
            if RANK[target] > RANK[module] or (target == "difnet" and module not in ("cli", "__main__")):
                if not allowed:
                    wrong.append(f"{path.relative_to(PACKAGE.parent)} ({LAYER_OF[module]}) imports {target} "
                                 f"({LAYER_OF[target]})")  # fmt: skip
            elif (module, target) in DOWN and not allowed:
                wrong.append(f"{path.relative_to(PACKAGE.parent)} imports {target} at its top: {DOWN[module, target]}")
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_itself_by_a_detour():
    """No cycle among the imports that happen when a module is loaded."""
    arrows: dict[str, set[str]] = {}
    for path, imports in IMPORTS.items():
        module = module_of(path)
        arrows.setdefault(module, set()).update(ours(imports.early) - {module})
    waiting = dict(arrows)
    while ready := [module for module, targets in waiting.items() if not targets & waiting.keys()]:
        for module in ready:
            del waiting[module]
    assert not waiting, f"these import each other in a circle: {sorted(waiting)}"


@pytest.mark.parametrize("layer", ["maths", "plug-ins"])
def test_the_maths_knows_no_sockets_files_clocks_or_processes(layer):
    """Nor random numbers that are not handed to it; `seeding` makes the generators, `spectra` a fixed start vector."""
    names = imported_by(*LAYERS[layer].split())
    allowed = {"collections", "typing", "math", "itertools", "enum", "functools", "dataclasses", "difflib",
               "torch", "numpy", "networkx", "hashlib"}  # fmt: skip
    assert outer(names) <= allowed, f"the {layer} import {sorted(outer(names) - allowed)}"


def test_the_loop_of_an_agent_knows_no_transport():
    """It is handed `exchange`."""
    names = imported_by("agent")
    assert ours(names) <= {"algorithms", "meta", "maths"}
    assert outer(names) <= {"collections", "numpy", "torch", "typing"}


def test_messages_and_links_are_pure():
    """How a message is bytes, and what a link keeps, is known without a socket, a clock or a file."""
    assert outer(imported_by("wire", "links")) <= {"typing", "dataclasses", "collections", "math", "msgpack", "numpy"}
    assert ours(imported_by("wire", "links")) <= {"errors", "wire"}


def test_zeromq_lives_in_the_sockets_and_the_registry():
    """`machine` and `doctor` ask for its version, to record or to judge it; those imports are inside functions."""
    at_top = {module_of(path) for path, imports in IMPORTS.items() if "zmq" in outer(imports.early)}
    within = {module_of(path) for path, imports in IMPORTS.items() if "zmq" in outer(imports.late)}
    assert at_top <= {"exchange"} and within <= {"system", "doctor"}
    plain = {module_of(path) for path, imports in IMPORTS.items() if outer(imports.all) & {"socket", "asyncio", "http"}}
    assert plain <= {"exchange", "report"}, "names are looked up in one place, and a page is served from another"


def test_the_dashboard_knows_events_alone():
    assert ours(imported_by("dashboard", "plain")) <= {"events", "readable", "plain"}
    assert ours(imported_by("readable")) <= {"events"}
    assert ours(imported_by("events")) == set()


def test_nothing_received_or_read_can_run():
    """No pickle, no eval or exec, no torch.load, anywhere in the package; one file writes a state_dict for others."""
    forbidden_modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}
    found = []
    for path, imports in IMPORTS.items():
        found += [f"{path.name} imports {name}" for name in outer(imports.all) & forbidden_modules]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            if call == "torch.save" and path.stem == "export":
                continue
            if call in ("eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen"):
                found.append(f"{path.name}:{node.lineno} calls {call}")
            if call.endswith(("np.load", "numpy.load", "read_gpickle")):
                found.append(f"{path.name}:{node.lineno} calls {call}")
            if any(k.arg in ("allow_pickle", "shell") and ast.unparse(k.value) != "False" for k in node.keywords):
                found.append(f"{path.name}:{node.lineno} allows pickle or a shell")
    assert not found, "\n".join(found)


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
