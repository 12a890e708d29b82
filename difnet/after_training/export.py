"""How does a launch model leave difnet: as a state_dict, as named tensors, as a network that any ONNX runtime runs?

Nothing is half written: a file appears whole, under its name, or not at all.
"""

import importlib
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from difnet.after_training.model_card import CARD, is_card_of, model_card
from difnet.after_training.personalisation import inputs_of
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.launch_models import FILE, NAMED, LaunchModel, rates_beside
from difnet.maths.flat import FlatModel
from difnet.record import finding
from difnet.system.machine import torch_settings

SUFFIXES = {"torch": ".pt", "safetensors": ".safetensors", "onnx": ".onnx"}


@torch_settings()
def export(learnt: LaunchModel, format: str, path: Path, *, force: bool = False) -> list[Path]:
    """Write a launch model to `path`, and a model card beside it; learnt inner rates too, in a file of their own.

    - torch: a state_dict that `torch.load(path, weights_only=True)` reads;
    - safetensors: the same tensors by name, with the run's metadata;
    - onnx: the network, of inputs "x" and outputs "prediction", for any number of samples.

    Returns: the files that were written.
    Raises: ConfigError, if a file is there already and `force` is not given, or the model cannot be exported so;
        EnvironmentLacks, if a library is missing or the place cannot be written.
    """
    if format not in SUFFIXES:
        raise ConfigError(f"format is {format!r}; it must be one of {', '.join(SUFFIXES)}")
    module = learnt.module()
    rates = {} if learnt.rates is None else {rates_beside(path): _safetensors(module, learnt, learnt.rates)}
    write: dict[str, Callable[[Path], None]] = {
        "torch": lambda scratch: _torch(module, scratch),
        "safetensors": _safetensors(module, learnt, learnt.w),
        "onnx": lambda scratch: _onnx(module, learnt, scratch),
    }
    beside = path.with_name(CARD)
    mine = beside.is_file() and is_card_of(beside.read_text(encoding="utf-8-sig", errors="replace"), learnt)
    refuse_existing([path, *rates, *([] if mine else [beside])], force)
    for target, writer in {path: write[format], **rates}.items():
        write_whole(target, writer)
    files = {name: other for name, suffix in SUFFIXES.items() if (other := path.with_suffix(suffix)).is_file()
             and (mine or other == path)} | {format: path}  # fmt: skip
    is_in_run = learnt.path.name == FILE and finding.is_run(learnt.path.parent)
    run = finding.load(learnt.path.parent) if is_in_run else None
    text = model_card(learnt, module, run, {name: file.name for name, file in files.items()})
    write_whole(beside, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    return [path, *rates, beside]


def refuse_existing(paths: list[Path], force: bool) -> None:
    """Raises: ConfigError, if one of these files is there already, unless `force` is given."""
    if there := [path for path in paths if path.exists() and not force]:
        raise ConfigError(f"{there[0]} is there already; give another -o, or --force to write over it")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside the one that is meant, and give it that name when it is whole.

    Raises: EnvironmentLacks, if it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        with open(scratch, "rb") as written:
            os.fsync(written.fileno())
        os.replace(scratch, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentLacks(f"cannot write {path}: {reason}; give another -o") from error
    finally:
        scratch.unlink(missing_ok=True)


def _torch(module: nn.Module, path: Path) -> None:
    torch.save(module.state_dict(), path)


def _safetensors(module: nn.Module, learnt: LaunchModel, values: Tensor) -> Callable[[Path], None]:
    from safetensors.torch import save_file

    tensors = {name: tensor.clone() for name, tensor in FlatModel(module).unflatten(values).items()}
    if values is learnt.w:
        tensors |= {name: t.clone() for name, t in module.state_dict().items() if name not in tensors}
    return lambda path: save_file(tensors, path, learnt.metadata(tensors, layout=NAMED))


def _onnx(module: nn.Module, learnt: LaunchModel, path: Path) -> None:
    try:
        for library in ("onnx", "onnxscript"):  # which torch imports
            importlib.import_module(library)
    except ImportError as error:
        raise EnvironmentLacks(f"the format onnx needs {error.name}: pip install 'difnet[onnx]'") from error
    example, name = _example(learnt, module), learnt.model.name
    sizes = {0: torch.export.Dim("samples")} | ({} if example.is_floating_point() else {1: torch.export.Dim("length")})
    with _silence():
        try:
            program = torch.onnx.export(module.eval(), (example,), dynamo=True, dynamic_shapes=(sizes,), verbose=False,
                                        input_names=["x"], output_names=["prediction"])  # fmt: skip
        except Exception as error:  # the exporter's own kinds, for an operation that ONNX has not
            raise ConfigError(f"PyTorch cannot export model {name!r} to ONNX: {str(error).splitlines()[0]}; "
                              f"try --format torch") from error  # fmt: skip
        assert program is not None, "torch.onnx.export returns a program with dynamo"
        program.save(path, external_data=False)


def _example(learnt: LaunchModel, module: nn.Module) -> Tensor:
    """Two samples, as the model takes them."""
    inputs = inputs_of(learnt, module)
    if inputs.numbers is not None:
        return torch.zeros(2, max(inputs.shape[0], 2), dtype=torch.int64)
    return torch.zeros(2, *inputs.shape, dtype=learnt.w.dtype)


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns of libraries that are not there and that this network has no use for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
