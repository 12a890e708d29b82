"""What is a run? One frozen, validated value, printed by `--print-config` and saved with the run.

It comes from defaults, then one TOML file, then `--set key=value`, then flags; what comes later wins.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from difnet.errors import ConfigError, did_you_mean


class Choice(BaseModel):
    """A plug-in by name, with the options its factory takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1)
    options: dict[str, Any] = {}

    def __str__(self) -> str:
        return self.name


def _choice(value: Any) -> Any:
    """A plain name, or a table {name = ..., option = ...}, as a Choice."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and "options" not in value:
        options = {k: v for k, v in value.items() if k != "name"}
        return {"options": options} | ({"name": value["name"]} if "name" in value else {})
    return value


Plugin = Annotated[Choice, BeforeValidator(_choice)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RunConfig(BaseModel):
    """Everything that decides what a run computes and where; the field names are the command line's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # the network
    topology: str = "ring40"
    agents: Count | None = None
    weights: Literal["averaging", "metropolis", "best-constant", "fastest"] | None = None  # None: as the topology says
    strategy: Literal["diffusion", "cta", "centralised", "noncooperative"] = "diffusion"
    mode: Literal["sync", "async"] = "sync"
    staleness: Annotated[int, Field(ge=0)] = 4
    # what is learnt
    algorithm: Plugin = Choice(name="dif-maml")
    task: Plugin = Choice(name="sinusoid")
    model: Plugin | None = None  # None: the task family's own
    init: Literal["common", "separate"] = "common"
    # how
    iterations: Count = 1000
    local_steps: Count = 1
    tasks: Count = 5
    shots: Count = 10
    queries: Count = 10
    inner_lr: Rate = 0.01
    inner_steps: Count = 1
    order: Literal[1, 2] = 2
    outer_lr: Rate = 0.001
    optimizer: Literal["sgd", "momentum", "adam"] = "adam"
    eval_every: Count = 200
    eval_tasks: Count = 100
    measure_every: Count | None = None  # None: eval_every / 10 for small models, eval_every for big ones
    eval_steps: tuple[Count, ...] = (1, 10)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    dtype: Literal["float32", "float64"] = "float32"
    # where
    device: str = "cpu"
    engine: Literal["auto", "aot", "traced", "eager"] = "auto"
    simulator: Literal["exact", "batched"] = "exact"
    place: str = "local"
    transport: Literal["ipc", "tcp"] = "ipc"
    ready_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    silence_s: Annotated[float, Field(ge=0.5)] = 3.0  # a neighbour unheard for so long is lost
    step_timeout_s: Annotated[float, Field(gt=0)] = 600.0  # a neighbour computing one step for so long is lost
    max_lost: Annotated[int, Field(ge=0)] = 0  # so many lost agents still count as success
    # the record
    runs: str = "runs"
    name: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.mode == "async" and self.strategy in ("centralised", "noncooperative"):
            raise ValueError(f"mode 'async' needs neighbours that may lag: strategy {self.strategy!r} has none")
        if list(self.eval_steps) != sorted(set(self.eval_steps)):
            raise ValueError(f"eval_steps must ascend, got {list(self.eval_steps)}; try {sorted(set(self.eval_steps))}")
        if self.eval_every > self.iterations:
            return self.model_copy(update={"eval_every": self.iterations})
        return self

    def to_toml(self) -> str:
        """This configuration as TOML that `load` reads back to an equal value; unset fields are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def load(
    path: Path | None = None, settings: Mapping[str, Any] | None = None, flags: Mapping[str, Any] | None = None
) -> RunConfig:
    """One run's configuration: defaults, then the TOML file, then `settings`, then `flags`.

    Raises: ConfigError, naming every wrong field at once.

    >>> load(settings={"algorithm.inner": "reptile"}).algorithm.options
    {'inner': 'reptile'}
    """
    values: dict[str, Any] = read_toml(path) if path else {}
    for key, value in (settings or {}).items():
        _assign(values, key, value)
    for key, value in (flags or {}).items():
        _assign(values, key, value)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        source = f" in {path}" if path else ""
        raise ConfigError(f"the configuration{source} is wrong:\n" + "\n".join(_explain(error))) from error


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises: ConfigError, if it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_setting(text: str) -> tuple[str, Any]:
    """One `--set key=value`: the value is read as TOML, and as plain text where it is none.

    >>> parse_setting("inner_lr=0.02"), parse_setting("task.name=sinusoid")
    (('inner_lr', 0.02), ('task.name', 'sinusoid'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not key=value; try --set inner_lr=0.02")
    try:
        return key.strip(), tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set values["a"]["b"] for the key "a.b"; a plain plug-in name in the way becomes its table."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent, {"name": RunConfig.model_fields[parent].default.name}
                           if isinstance(getattr(RunConfig.model_fields.get(parent), "default", None), Choice) else {})
        inner = {"name": inner} if isinstance(inner, str) else dict(inner)
        if "options" in inner:
            inner = {"name": inner["name"], **inner["options"]}
        values[parent] = inner
        values = inner
    values[last] = value


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {field}: no such field{did_you_mean(field, RunConfig.model_fields)}")
        else:
            got = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
            lines.append(f"  {field or 'run'}: {problem['msg']}{got}")
    return lines
