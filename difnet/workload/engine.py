"""The same meta-gradient, traced, compiled ahead of time, cached; eager when it must be.

A kernel is a function from a list of tensors to a list of tensors with fixed shapes. It is traced with `make_fx` (which
records the second order that `torch.compile` of autograd code would lose), compiled once by AOTInductor in a forked
child, and kept in a cache as a shared library that loads in milliseconds and that forked agents share.

The rule of `auto`: compile where there is a C++ compiler, the trace has at most 2000 nodes and no tensor more than
200 000 values; else run the trace. What cannot be traced runs as it is written.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difnet.errors import EnvironmentLacks
from difnet.system.folders import cache_folder, own_prefix, sweep_orphans
from difnet.system.lifetime import die_with_parent

Function = Callable[[list[Tensor]], list[Tensor]]
Say = Callable[[str], None]

MOST_NODES, MOST_VALUES = 2000, 200_000
COMPILE_TIMEOUT_S = 900.0
COMPILING = "compiling-"
PLAIN = re.compile(r"[\w./+@=-]+", re.ASCII)  # torch hands its compiler the names of files unquoted
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest value; summation order differs


class Kernel(NamedTuple):
    """A function of fixed shapes, ready to run, and how it came about."""

    run: Function
    engine: str  # "aot" | "traced" | "eager"
    operations: Function  # the same, run by PyTorch operation by operation: the trace, or the function as written


class Pending(NamedTuple):
    """A kernel on its way: several compile at the same time."""

    name: str
    function: Function
    example: list[Tensor]
    graph: torch.fx.GraphModule | None
    folder: Path | None  # where the compiled library lies, or will lie
    pid: int  # the child that compiles it; 0 for none


def prepare(
    functions: dict[str, tuple[Function, list[Tensor]]], engine: str, say: Say, threads: int = 1
) -> dict[str, Kernel]:
    """Kernels for named functions with example inputs, compiled side by side where they are not cached.

    Args: `engine` is "auto", "aot", "traced" or "eager"; `say` hears what a person waits for; `threads` is how many of
        them one call of a compiled kernel may use: one gives the same bits in every process.
    Raises: EnvironmentLacks, if "aot" was asked for and cannot be had.
    """
    pending = [_begin(name, *given, engine, say, threads) for name, given in functions.items()]
    _wait([p for p in pending if p.pid], say)
    kernels = {p.name: _finish(p, engine, say) for p in pending}
    for p in pending:
        if p.graph is not None:
            kernels[p.name].run(list(p.example))  # what a first call imports and allocates is shared by forked agents
    return kernels


def _begin(name: str, function: Function, example: list[Tensor], engine: str, say: Say, threads: int) -> Pending:
    if engine == "eager":
        return Pending(name, function, example, None, None, 0)
    graph = _trace(name, function, example, say)
    if graph is None or not _should_compile(graph, example, engine):
        return Pending(name, function, example, graph, None, 0)
    folder = cache_folder() / _key(graph, example, threads)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        pid = 0 if (folder / "about.json").exists() else _fork_compiler(graph, example, folder, threads)
    except OSError as error:
        reason = f"the cache {folder.parent} cannot be used: {error.strerror}; set DIFNET_CACHE to another folder"
        if engine == "aot":
            raise EnvironmentLacks(f"{name} could not be compiled: {reason}") from error
        say(f"{name} could not be compiled ({reason}); the traced graph runs instead")
        return Pending(name, function, example, graph, None, 0)
    return Pending(name, function, example, graph, folder, pid)


def _trace(name: str, function: Function, example: list[Tensor], say: Say) -> torch.fx.GraphModule | None:
    from torch.fx.experimental.proxy_tensor import make_fx

    assert len({id(t) for t in example}) == len(example), "two inputs that are one tensor would be traced as one"

    try:
        graph = make_fx(lambda *inputs: function(list(inputs)))(*example)
    except Exception as error:  # whatever a model's own code may raise under tracing
        say(f"{name} cannot be traced ({type(error).__name__}: {str(error).splitlines()[0][:120]}); it runs eagerly")
        return None
    return _without_waste(graph)


def _without_waste(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The trace without what is computed twice (if nothing is written in place), or what nobody asks for.

    PyTorch's compiler does not see the first. Of a loss that is differentiated autograd asks the shape alone, for the
    ones it begins with, and their node would keep the loss's own computation alive.
    """
    _merge_repetitions(graph.graph)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.ones_like.default):
        ones = node.meta["val"]
        if ones.dim() > 1:
            continue  # its strides might be those of what it is like
        with graph.graph.inserting_before(node):
            made = graph.graph.call_function(torch.ops.aten.full.default, (list(ones.shape), 1), {
                "dtype": ones.dtype, "layout": ones.layout, "device": ones.device, "pin_memory": False})  # fmt: skip
        made.meta = node.meta
        node.replace_all_uses_with(made)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _should_compile(graph: torch.fx.GraphModule, example: list[Tensor], engine: str) -> bool:
    if any(tensor.device.type != "cpu" for tensor in example):
        return False
    if engine == "aot":
        if not compiler():
            raise EnvironmentLacks("--engine aot needs a C++ compiler (g++ or clang++), and none is on the PATH")
        return True
    small = len(graph.graph.nodes) <= MOST_NODES and max(t.numel() for t in example) <= MOST_VALUES
    return engine == "auto" and small and compiler() is not None


def compiler() -> str | None:
    return next((c for c in (os.environ.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None)


def _key(graph: torch.fx.GraphModule, example: list[Tensor], threads: int = 1) -> str:
    """What a compiled kernel depends on: operations, constants, shapes, the compiler and the processor."""
    digest = hashlib.sha256()
    shapes = str([(t.dtype, t.shape, t.stride()) for t in example])
    for part in (graph.code, torch.__version__, _processor(), shapes, str(threads)):
        digest.update(part.encode())
    for name, constant in sorted(graph.named_buffers()):
        digest.update(name.encode() + constant.detach().contiguous().numpy().tobytes())
    for name, value in sorted(vars(graph).items()):
        if isinstance(value, Tensor):
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(line for line in lines[:40] if line.startswith(("model name", "flags")))
    except OSError:
        return platform.processor() + platform.machine()


def _fork_compiler(graph: torch.fx.GraphModule, example: list[Tensor], folder: Path, threads: int) -> int:
    """Compile in a child, so that the compiler's memory and threads never enter the process that agents fork from."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(parent)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        sweep_orphans(folder.parent, COMPILING)
        if not PLAIN.fullmatch(str(folder.parent)):
            place = os.open(folder.parent, os.O_RDONLY)  # by this number it has a name that is plain
            folder = Path(f"/proc/{os.getpid()}/fd/{place}", folder.name)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=own_prefix(COMPILING)) as scratch:
            log = os.open(os.path.join(scratch, "log.txt"), os.O_CREAT | os.O_WRONLY, 0o600)
            os.dup2(log, 2)
            _compile(graph, example, Path(scratch), folder, threads)
        os._exit(0)
    except BaseException as error:
        try:
            folder.with_name(folder.name + ".failed").write_text(f"{type(error).__name__}: {error}"[:4000])
        finally:
            os._exit(1)  # whatever happens, the child never returns into its parent's code


def _compile(graph: torch.fx.GraphModule, example: list[Tensor], scratch: Path, folder: Path, threads: int) -> None:
    """Compile into the cache. The kernel is not run here: a forked child must not enter its parent's threads."""
    kept = folder.parent / "inductor"  # precompiled headers, which torch keeps in "the" temporary folder
    kept.mkdir(exist_ok=True)
    tempfile.tempdir = str(kept)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
    torch.set_num_threads(1)
    from torch._inductor import aoti_compile_and_package

    program = torch.export.export(graph, tuple(example), strict=False)
    package = aoti_compile_and_package(
        program,
        package_path=str(scratch / "kernel.pt2"),
        inductor_configs={"cpp.threads": threads, "compile_threads": 1},
    )
    finished = scratch / "finished"
    finished.mkdir()
    with zipfile.ZipFile(package) as archive:
        library = next(name for name in archive.namelist() if name.endswith(".so"))
        (finished / "kernel.so").write_bytes(archive.read(library))
    (finished / "about.json").write_text(json.dumps({"torch": torch.__version__}))
    try:
        os.rename(finished, folder)
    except OSError:
        if not (folder / "about.json").exists():  # another run was first: its kernel is as good
            raise


def _relative_error(compiled: list[Tensor], eager: list[Tensor]) -> float:
    """The largest difference between two lists of tensors, over the largest value of each tensor."""
    worst = 0.0
    for got, want in zip(compiled, eager, strict=True):
        scale = max(want.abs().max().item(), 1e-12) if want.numel() else 1.0
        worst = max(worst, (got - want).abs().max().item() / scale if want.numel() else 0.0)
    return worst


def _wait(children: list[Pending], say: Say) -> None:
    """Until the compilers end; every few seconds a line says that they still run."""
    if not children:
        return
    names = " and ".join(p.name for p in children)
    say(f"compiling {names} ahead of time; kept for the next run (about half a minute)")
    began, running = time.monotonic(), {p.pid: p for p in children}
    spoke = began
    while running:
        for pid in list(running):
            if os.waitpid(pid, os.WNOHANG)[0]:
                say(f"compiled {running.pop(pid).name} in {time.monotonic() - began:.0f} s")
        if time.monotonic() - began > COMPILE_TIMEOUT_S:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            say(f"gave up compiling after {COMPILE_TIMEOUT_S:.0f} s")
            return
        if running and time.monotonic() - spoke > 5:
            spoke = time.monotonic()
            say(f"still compiling {' and '.join(p.name for p in running.values())}: {spoke - began:.0f} s")
        time.sleep(0.05)


def _merge_repetitions(graph: torch.fx.Graph) -> None:
    """Every operation on the same inputs once; what is returned stays as it is, since two results must not be one.

    PyTorch has a pass for it, which imports its compiler: 0.8 s of every start.
    """
    operations = [node for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if any(node.target._schema.is_mutable for node in operations):
        return
    first: dict[tuple[Any, str], torch.fx.Node] = {}
    returned = set(graph.output_node().all_input_nodes)
    for node in operations:
        if node in returned or torch.Tag.nondeterministic_seeded in node.target.tags:
            continue
        known = first.setdefault((node.target, repr((node.args, node.kwargs))), node)  # nodes have names of their own
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _finish(pending: Pending, engine: str, say: Say) -> Kernel:
    name, function, example, graph, folder, _ = pending
    if graph is None:
        return Kernel(function, "eager", function)

    def operations(inputs: list[Tensor]) -> list[Tensor]:
        return list(graph(*inputs))

    if folder is not None:
        try:
            run, error = load_checked(folder, graph, example)
            dtype = next(t.dtype for t in example if t.is_floating_point())
            if not error <= TOLERANCE[dtype]:
                raise ArithmeticError(f"it differs from eager by {error:.1e} of the largest value")
            return Kernel(run, "aot", operations)
        except (OSError, RuntimeError, ArithmeticError, KeyError, ValueError) as error:
            reason = _why_it_failed(folder) or str(error)
            if engine == "aot":
                raise EnvironmentLacks(f"{name} could not be compiled: {reason}") from error
            say(f"{name} could not be compiled ({reason[:200]}); the traced graph runs instead")
    return Kernel(operations, "traced", operations)


def _why_it_failed(folder: Path) -> str:
    """What the compiler's child left behind as its reason, if it could."""
    failed = folder.with_name(folder.name + ".failed")
    try:
        reason = failed.read_text().splitlines()[0]
        failed.unlink()
        return reason
    except (OSError, IndexError):
        return ""


def load_checked(folder: Path, graph: torch.fx.GraphModule, example: list[Tensor]) -> tuple[Function, float]:
    """The compiled kernel in a folder of the cache, called through its runner without a wrapper around it.

    Returns: it, and its error against the traced graph, which is measured on the first use and then kept.
    """
    about = json.loads((folder / "about.json").read_text())
    runner: Any = torch._C._aoti.AOTIModelContainerRunnerCpu(str(folder / "kernel.so"), 1)
    if "error_to_eager" not in about:
        about["error_to_eager"] = _relative_error(runner.run(list(example)), graph(*example))
        scratch = folder / f"about-{os.getpid()}.json"
        scratch.write_text(json.dumps(about))
        os.replace(scratch, folder / "about.json")
    return runner.run, float(about["error_to_eager"])


def count_flops(function: Function, example: list[Tensor]) -> int | None:
    """Floating-point operations of one call: a multiply-add counts as two, element-wise operations as none.

    Give it a kernel's `operations`: a trace lacks what the function as written computes for nothing.

    None where there are none to count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: _batched_product}) as counter:
        function(list(example))
    return counter.get_total_flops() or None


def _batched_product(a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    """Matrix products (n, rows, inner) by (n, inner, columns); one with a single number scales, element by element.

    So is a dot product that is mapped over tasks differentiated.
    """
    count, rows, inner, columns = *a, b[2]
    return 0 if inner == 1 and 1 in (rows, columns) else 2 * count * rows * inner * columns
