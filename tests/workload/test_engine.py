"""Kernels: compiled equals eager, what cannot be compiled still runs and says so, a bad cache is never believed."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difnet.errors import EnvironmentLacks
from difnet.workload import engine
from difnet.workload.engine import count_flops, prepare


def curved(inputs: list[Tensor]) -> list[Tensor]:
    """A function whose second derivative matters."""
    x, y = inputs
    slope = torch.func.grad(lambda u: torch.sin(u * y).sum())(x)
    return [torch.func.grad(lambda u: (torch.cos(u) * slope).sum())(x), slope.sum()]


EXAMPLE = [torch.linspace(-1, 1, 7), torch.linspace(0.5, 2, 7)]


def prepared(how: str, function=curved) -> tuple[engine.Kernel, list[str]]:
    """One kernel, and what was said while it was prepared."""
    said: list[str] = []
    return prepare({"the function": (function, EXAMPLE)}, how, said.append)["the function"], said


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def close(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.allclose(g, w, rtol=1e-5, atol=1e-6) for g, w in zip(got, want, strict=True))


@pytest.mark.slow
def test_a_kernel_is_compiled_once_checked_and_then_taken_from_the_cache(cache):
    """Compiled and eager agree; the second time nothing is compiled; a kernel that differs is not believed."""
    kernel, said = prepared("aot")
    assert kernel.engine == "aot" and any("compiling" in line for line in said)
    other = [torch.randn(7, generator=torch.Generator().manual_seed(1)), EXAMPLE[1] * 1.1]
    assert close(kernel.run(other), curved(other))
    [about] = cache.glob("*/about.json")
    assert json.loads(about.read_text())["error_to_eager"] < 1e-5
    assert not list(cache.glob("compiling-*"))

    again, said = prepared("auto")
    assert again.engine == "aot" and said == []

    about.write_text(json.dumps({"error_to_eager": 0.5}))
    liar, said = prepared("auto")
    assert liar.engine == "traced" and any("differs from eager" in line for line in said)
    assert close(liar.run(other), curved(other))
    with pytest.raises(EnvironmentLacks, match="could not be compiled"):
        prepared("aot")


def test_a_broken_library_in_the_cache_is_not_believed(cache):
    """What cannot be loaded is said, and the trace runs."""
    graph = engine._trace("f", curved, EXAMPLE, print)
    folder = cache / engine._key(graph, EXAMPLE)
    folder.mkdir(parents=True)
    (folder / "kernel.so").write_bytes(b"no library")
    (folder / "about.json").write_text(json.dumps({"error_to_eager": 0.0}))
    kernel, said = prepared("auto")
    assert kernel.engine == "traced" and any("could not be compiled" in line for line in said)
    assert close(kernel.run(EXAMPLE), curved(EXAMPLE))


def test_a_cache_that_cannot_be_written_costs_speed_and_nothing_else(tmp_path, monkeypatch):
    """The trace runs, and the reason is said."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "file"))
    kernel, said = prepared("auto")
    assert kernel.engine == "traced" and any("could not be compiled" in line for line in said)
    assert len(said) == 1 and "set DIFNET_CACHE to another folder" in said[0], "and nothing is begun in vain"


@pytest.mark.slow
def test_a_cache_with_blanks_and_quotes_in_its_name_keeps_kernels_too(tmp_path, monkeypatch):
    """The compiler is handed names of files as they are, and would take such a one for several."""
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "it's \"my\" own $(cache)"))
    kernel, _ = prepared("aot")
    assert kernel.engine == "aot" and close(kernel.run(EXAMPLE), curved(EXAMPLE))
    assert prepared("aot")[1] == [], "taken from the cache"


def test_another_computation_is_another_kernel(cache):
    """The key follows operations and constants, not names."""

    def keyed(factor: float) -> str:
        graph = engine._trace("f", lambda inputs: [inputs[0] * torch.tensor([factor] * 7)], EXAMPLE, print)
        return engine._key(graph, EXAMPLE)

    assert keyed(2.0) == keyed(2.0) != keyed(3.0)


def test_without_a_compiler_the_trace_runs(cache, monkeypatch):
    """And asking for a compiled kernel names what is missing."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    kernel, _ = prepared("auto")
    assert kernel.engine == "traced" and close(kernel.run(EXAMPLE), curved(EXAMPLE))
    with pytest.raises(EnvironmentLacks, match=r"C\+\+ compiler"):
        prepared("aot")


def test_what_cannot_be_traced_runs_as_written_and_says_so(cache):
    """A branch on a value is nothing that a trace can hold."""

    def branching(inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0] if inputs[1].sum().item() > 0 else -inputs[0]]

    kernel, said = prepared("auto", branching)
    assert kernel.engine == "eager" and any("cannot be traced" in line for line in said)
    assert torch.equal(kernel.run([EXAMPLE[0], -EXAMPLE[1]])[0], -EXAMPLE[0])


def test_a_long_trace_is_not_compiled_unasked(cache, monkeypatch):
    """The stated rule of auto."""
    monkeypatch.setattr(engine, "MOST_NODES", 3)
    kernel, said = prepared("auto")
    assert kernel.engine == "traced" and said == []


def test_a_trace_computes_nothing_twice_and_nothing_that_nobody_asks_for():
    """A product that is wanted twice is taken once, and a loss that is only differentiated not at all."""

    def wasteful(inputs: list[Tensor]) -> list[Tensor]:
        x, y = (t[:, None] for t in inputs)
        return [x.T @ y + 1, x.T @ y + 2, torch.func.grad(lambda u: (u.T @ y)[0, 0])(x)]

    graph = engine._trace("f", wasteful, EXAMPLE, print)
    traced = count_flops(lambda inputs: list(graph(*inputs)), EXAMPLE)
    assert (count_flops(wasteful, EXAMPLE), traced) == (2 * 7 * 4, 2 * 7 * 2)
    assert all(torch.equal(g, w) for g, w in zip(graph(*EXAMPLE), wasteful(EXAMPLE), strict=True))


def test_a_trace_that_writes_in_place_is_not_taken_for_one_that_repeats_itself():
    """The two sums are of different numbers, though they read the same."""

    def writing(inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0] * 1
        before = x.sum()
        x.mul_(2)
        return [before, x.sum()]

    graph = engine._trace("f", writing, EXAMPLE, print)
    other = [EXAMPLE[0] + 1, EXAMPLE[1]]
    assert all(torch.equal(g, w) for g, w in zip(graph(*other), writing(other), strict=True))


def test_matrix_products_are_counted_as_two_operations_a_term(cache):
    counted = count_flops(lambda inputs: [inputs[0].outer(inputs[1]) @ inputs[1][:, None]], EXAMPLE)
    assert counted == 2 * 7 * 7 * 1


def test_a_product_with_a_single_number_is_none():
    """Mapped, a dot product is differentiated by one."""
    dot, x = torch.vmap(torch.func.grad(torch.dot)), torch.ones(3, 7)
    assert count_flops(lambda inputs: [dot(*inputs)], [x, x]) == 3 * 2 * 7  # the dot products themselves
