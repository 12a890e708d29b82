"""How does a launch model leave difnet: as a state_dict, as named tensors, as a network that any ONNX runtime runs?

Nothing is half written: a file appears whole, under its name, or not at all.
"""

import importlib
import io
import json
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
from difnet.after_training.own_model import facts, own_model, schema_of
from difnet.after_training.personalisation import inputs_of
from difnet.data.schema import Schema
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.launch_models import FILE, NAMED, LaunchModel, rates_beside
from difnet.maths.flat import FlatModel
from difnet.record import finding
from difnet.system.machine import torch_settings

FORMATS = {"torch": ".pt", "safetensors": ".safetensors", "onnx": ".onnx"}
ABOUT = "difnet.json"  # beside a program of a table's model: what it takes and gives


@torch_settings()
def export(learnt: LaunchModel, format: str, path: Path, *, force: bool = False) -> list[Path]:
    """Write a launch model to `path`, and a model card beside it; learnt inner rates too, in a file of their own.

    - torch: a state_dict that `torch.load(path, weights_only=True)` reads;
    - safetensors: the same tensors by name, with the run's metadata;
    - onnx: the network, of inputs "x" and outputs "prediction", for any number of samples.

    Of task `table` torch and onnx are the network with what is before and behind it, so that raw rows go in and
    probabilities or values in the target's unit come out (`own_model`), and torch is a program that
    `torch.export.load(path)` reads; what columns and outputs are stands in the file.

    Returns: the files that were written.
    Raises: ConfigError, if a file is there already and `force` is not given, or the model cannot be exported so;
        EnvironmentLacks, if a library is missing or the place cannot be written.
    """
    suffixes = suffixes_of(learnt)
    if format not in suffixes:
        raise ConfigError(f"format is {format!r}; it must be one of {', '.join(suffixes)}")
    module, schema = learnt.module(), schema_of(learnt)
    whole = own_model(learnt) if schema is not None and format != "safetensors" else module
    rates = {} if learnt.rates is None else {rates_beside(path): _safetensors(module, learnt, learnt.rates)}
    write: dict[str, Callable[[Path], None]] = {
        "torch": lambda scratch: _torch(whole, schema, scratch),
        "safetensors": _safetensors(module, learnt, learnt.w),
        "onnx": lambda scratch: _onnx(whole, schema, learnt, scratch),
    }
    beside = path.with_name(CARD)
    mine = beside.is_file() and is_card_of(beside.read_text(encoding="utf-8-sig", errors="replace"), learnt)
    refuse_existing([path, *rates, *([] if mine else [beside])], force)
    for target, writer in {path: write[format], **rates}.items():
        write_whole(target, writer)
    files = {name: other for name, suffix in suffixes.items() if (other := path.with_suffix(suffix)).is_file()
             and (mine or other == path)} | {format: path}  # fmt: skip
    is_in_run = learnt.path.name == FILE and finding.is_run(learnt.path.parent)
    run = finding.load(learnt.path.parent) if is_in_run else None
    text = model_card(learnt, module, run, {name: file.name for name, file in files.items()})
    write_whole(beside, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    return [path, *rates, beside]


def suffixes_of(learnt: LaunchModel) -> dict[str, str]:
    """By format, how a file's name ends."""
    return FORMATS | ({"torch": ".pt2"} if schema_of(learnt) is not None else {})


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


def _torch(module: nn.Module, schema: Schema | None, path: Path) -> None:
    if schema is None:
        torch.save(module.state_dict(), path)
        return
    rows, program = torch.zeros(2, len(schema.used)), io.BytesIO()
    with _silence():
        made = torch.export.export(module.eval(), (rows,), dynamic_shapes=({0: torch.export.Dim("samples")},))
        torch.export.save(made, program, extra_files={ABOUT: json.dumps(facts(schema), indent=1)})
    path.write_bytes(program.getvalue())


def _safetensors(module: nn.Module, learnt: LaunchModel, values: Tensor) -> Callable[[Path], None]:
    from safetensors.torch import save_file

    tensors = {name: tensor.clone() for name, tensor in FlatModel(module).unflatten(values).items()}
    if values is learnt.w:
        tensors |= {name: t.clone() for name, t in module.state_dict().items() if name not in tensors}
    return lambda path: save_file(tensors, path, learnt.metadata(tensors, layout=NAMED))


def _onnx(module: nn.Module, schema: Schema | None, learnt: LaunchModel, path: Path) -> None:
    try:
        for library in ("onnx", "onnxscript"):  # which torch imports
            importlib.import_module(library)
    except ImportError as error:
        raise EnvironmentLacks(f"the format onnx needs {error.name}: pip install 'difnet[onnx]'") from error
    name = learnt.model.name
    example = _example(learnt, module) if schema is None else torch.zeros(2, len(schema.used))
    sizes = {0: torch.export.Dim("samples")} | ({} if example.is_floating_point() else {1: torch.export.Dim("length")})
    with _silence():
        try:
            program = torch.onnx.export(module.eval(), (example,), dynamo=True, dynamic_shapes=(sizes,), verbose=False,
                                        input_names=["x"], output_names=["prediction"])  # fmt: skip
        except Exception as error:  # the exporter's own kinds, for an operation that ONNX has not
            raise ConfigError(f"PyTorch cannot export model {name!r} to ONNX: {str(error).splitlines()[0]}; "
                              f"try --format torch") from error  # fmt: skip
        assert program is not None, "torch.onnx.export returns a program with dynamo"
        if schema is not None:
            program.model.metadata_props.update({key: json.dumps(told) for key, told in facts(schema).items()})
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
