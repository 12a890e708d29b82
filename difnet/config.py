"""What is a run? One frozen, validated value, printed by `--print-config` and saved with the run.

It comes from defaults, then one TOML file, then `--set key=value`, then flags; what comes later wins.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from difnet.errors import ConfigError, did_you_mean
from difnet.system.texts import NotText, read_text


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


MOST_NAME_BYTES = 200  # of a run's folder, to whose name a file system gives 255, and we a suffix


def _name(value: str | None) -> str | None:
    """A name for a folder of its own within the folder of runs."""
    if value is None:
        return None
    size = len(value.encode(errors="replace"))
    wrong = ("is empty" if not value.strip() else
             f"has {size} bytes" if size > MOST_NAME_BYTES else
             "begins with a dot" if value.startswith(".") else
             "holds a slash" if "/" in value or "\\" in value else
             "holds control characters or the like" if not value.isprintable() else
             "is what the newest run is called" if value == "latest" else "")  # fmt: skip
    if wrong:
        shown = repr(value if size <= MOST_NAME_BYTES else f"{value[:20]}…")
        raise ValueError(f"{shown} {wrong}; a run's name has 1 to {MOST_NAME_BYTES} bytes of printable text without "
                         f"slashes, begins with no dot, and is not 'latest'; --runs says where it lies")  # fmt: skip
    return value


FROM = "from:"  # what `init` begins with where a file has the first launch model


def _init(value: str) -> str:
    """One of the words, or a path made absolute: a host process may run elsewhere, and runs/latest may move on."""
    path = value.removeprefix(FROM)
    if value in ("common", "separate"):
        return value
    if path in ("", value):
        raise ValueError(f"{value!r} is none of common, separate and from:PATH, with the path of a run folder or of a "
                         f".safetensors file of a launch model")  # fmt: skip
    return f"{FROM}{Path(path).expanduser().resolve()}"


def _combine(value: str) -> str:
    """The name of a rule of `maths.robust`."""
    if re.fullmatch(r"mean|clip|median|trim:[1-9]\d{0,5}", value):
        return value
    raise ValueError(f"{value!r} is none of mean, clip, median and trim:b, where b neighbours of an agent may lie; try "
                     f"trim:1")  # fmt: skip


Plugin = Annotated[Choice, BeforeValidator(_choice)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Server(BaseModel):
    """How the hub of a star runs its rounds: who takes part, how answers are weighted, how long it waits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    clients: Count | None = None  # m of the K clients per round; None: all, or `fraction` of them
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    sampling: Literal["uniform", "samples"] = "uniform"  # every client alike, or in proportion to its samples
    aggregation: Literal["uniform", "samples"] = "uniform"  # weights of the answers
    oversample: Annotated[int, Field(ge=0)] = 0  # call so many more, and go on with the first m answers
    quorum: Count = 1  # a round with fewer answers changes nothing; RunConfig.quorum is about the whole run
    deadline_s: Annotated[float, Field(gt=0)] | None = None  # go on without those who have not answered by then

    @model_validator(mode="after")
    def _consistent(self) -> "Server":
        if self.clients is not None and self.fraction is not None:
            raise ValueError(f"both clients ({self.clients}) and fraction ({self.fraction}); give one of them")
        if self.clients is not None and self.quorum > self.clients:
            raise ValueError(f"quorum {self.quorum} can never be met by {self.clients} clients per round")
        return self


class HoldOut(BaseModel):
    """How many owners train nothing: they judge the launch model with their own data, on the way or at the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    validation: Annotated[int, Field(ge=0)] = 0
    test: Annotated[int, Field(ge=0)] = 0

    @property
    def count(self) -> int:
        """How many they are."""
        return self.validation + self.test

    def __bool__(self) -> bool:
        return self.count > 0


class Channel(BaseModel):
    """The modelled radio channel of Meta-Backward, section V: every upload at Shannon's rate; its constants."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bandwidth_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5000.0  # B, per agent
    power_w: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0  # P
    noise_w_per_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4  # N0
    bits: Count = 32  # per element
    broadcast: bool = False  # whether what a hub sends is charged too


class RunConfig(BaseModel):
    """Everything that decides what a run computes and where; the field names are the command line's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # the network
    topology: str = "ring40"
    agents: Count | None = None
    weights: Literal["averaging", "metropolis", "best-constant", "fastest", "given"] | None = None  # None: the file's
    strategy: Literal["diffusion", "cta", "centralised", "fully-connected", "noncooperative"] = "diffusion"
    mode: Literal["sync", "async"] = "sync"
    staleness: Annotated[int, Field(ge=0)] = 4
    combine: Annotated[str, AfterValidator(_combine)] = "mean"  # by A; or "clip", "trim:b", "median": some may lie
    # what is learnt
    algorithm: Plugin = Choice(name="dif-maml")
    task: Plugin = Choice(name="sinusoid")
    model: Plugin | None = None  # None: the task family's own
    init: Annotated[str, AfterValidator(_init)] = "common"  # or "separate", or "from:PATH" to a launch model
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
    optimizer: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = "adam"
    eval_every: Annotated[Count, Field(validate_default=True)] = 200
    eval_tasks: Count | None = None  # None: 100, or 20 for networks that take tasks in turn, which are slow
    measure_every: Count | None = None  # None: eval_every / 10 for small models, eval_every for big ones
    eval_steps: tuple[Count, ...] = (1, 10)
    eval_shots: Count | None = None  # of validation and test tasks; None: as `shots`
    eval_queries: Count | None = None
    test_tasks: Annotated[int, Field(ge=0)] = 100  # scored once, at the end, with the launch model
    launch_model: Literal["last", "best"] = "last"  # best: that of the best validation
    target: str | None = None  # stop when reached: "accuracy=0.74", "loss@1=0.5" (after 1 inner step)
    offline_steps: Annotated[int, Field(ge=0)] | None = None  # alone, before round 1; None: as the algorithm asks
    offline_lr: Rate = 0.001
    offline_epsilon: Annotated[float, Field(ge=0)] = 0.0  # a gradient norm at which offline training ends early
    hold_out: HoldOut = HoldOut()  # agents beside those of the topology; none: each owner keeps some of its rows back
    data_dir: str | None = None  # where data sets lie; None: $DIFNET_DATA, else the user's data folder
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    dtype: Literal["float32", "float64"] = "float32"
    # the star's hub, and the modelled channel
    server: Server = Server()
    communication: Channel = Channel()
    # where
    device: str = "cpu"
    engine: Literal["auto", "aot", "traced", "eager"] = "auto"
    simulator: Literal["exact", "batched"] = "exact"
    place: str = "local"
    hosts_expected: Count | None = None  # so many hosts are started by somebody else: place "expected"
    agents_per_host: Count | None = None  # in places that start several hosts; None: 1 for up to 50 agents
    registry: str | None = None  # where the registry listens for hosts; None: as the place needs it
    transport: Literal["ipc", "tcp"] = "ipc"  # between the agents of this machine
    orphan_s: Annotated[float, Field(ge=5)] = 60.0  # a host elsewhere ends when its launcher is silent for so long
    ready_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    silence_s: Annotated[float, Field(ge=0.5)] = 3.0  # a neighbour unheard for so long is lost
    step_timeout_s: Annotated[float, Field(gt=0)] = 600.0  # a neighbour computing one step for so long is lost
    return_s: Annotated[float, Field(ge=0)] = 30.0  # who has lost everybody waits so long for somebody to come back
    on_failure: Literal["restart", "continue", "stop"] = "restart"  # what an agent's death means to the rest
    max_lost: Annotated[int, Field(ge=0)] = 0  # so many lost agents still count as success
    quorum: Count | None = None  # all end, failed, when fewer agents are together for `return_s`; see server.quorum
    # the record
    checkpoint_every: Annotated[int, Field(ge=0)] | None = None  # iterations; 0: never; None: as `checkpoint_s` says
    checkpoint_s: Annotated[float, Field(gt=0)] = 60.0  # at the least, between two; more where saving takes long
    runs: str = "runs"
    name: Annotated[str | None, AfterValidator(_name)] = None

    @field_validator("eval_every")
    @classmethod
    def _within_the_run(cls, value: int, given: ValidationInfo) -> int:
        return min(value, given.data.get("iterations", value))

    @model_validator(mode="before")
    @classmethod
    def _place_follows(cls, values: Any) -> Any:
        """Who says how many hosts are expected need not say that some are, and may take minutes to start them."""
        implied = {"place": "expected", "ready_timeout_s": 600.0}
        return implied | values if isinstance(values, dict) and values.get("hosts_expected") else values

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.hosts_expected and self.place != "expected":
            raise ValueError(f"hosts_expected is for hosts that somebody else starts, and place {self.place!r} starts "
                             f"its own; leave one of the two away")  # fmt: skip
        if self.mode == "async" and self.strategy in ("centralised", "noncooperative"):
            raise ValueError(f"mode 'async' needs neighbours that may lag: strategy {self.strategy!r} has none")
        if self.combine != "mean" and self.strategy in ("centralised", "noncooperative"):
            raise ValueError(f"combine {self.combine!r} needs neighbours, and strategy {self.strategy!r} has none; "
                             f"leave one of the two away")  # fmt: skip
        if list(self.eval_steps) != sorted(set(self.eval_steps)):
            raise ValueError(f"eval_steps must ascend, got {list(self.eval_steps)}; try {sorted(set(self.eval_steps))}")
        return self

    def to_toml(self) -> str:
        """This configuration as TOML that `load` reads back to an equal value; unset fields are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


PLUGINS = ("algorithm", "task", "model")


def load(
    path: Path | None = None, settings: Mapping[str, Any] | None = None, flags: Mapping[str, Any] | None = None
) -> RunConfig:
    """One run's configuration: defaults, then the TOML file, then `settings`, then `flags`.

    Raises: ConfigError, naming every wrong field at once.

    >>> load(settings={"algorithm.inner": "reptile"}, flags={"algorithm": "fedmeta"}).algorithm
    Choice(name='fedmeta', options={'inner': 'reptile'})
    >>> load(flags={"algorithm": "iMAML-50-500"}).inner_steps
    500
    """
    values: dict[str, Any] = read_toml(path) if path else {}
    named = {key: name for key, name in (flags or {}).items() if key in PLUGINS}  # whose options `settings` may hold
    for key, value in [*named.items(), *(settings or {}).items()]:
        _assign(values, key, value)
    for key, value in (flags or {}).items():
        _assign(values, f"{key}.name" if key in named else key, value)
    said = {**(settings or {}), **(flags or {})}
    _read_paper_name(values, said if "algorithm" in said else values)
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
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, NotText) as error:
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


def _read_paper_name(values: dict[str, Any], explicit: Mapping[str, Any]) -> None:
    """The name iMAML-X-Y, as Meta-Backward's section V writes it: iMAML with X global iterations of Y local ones.

    Args: `explicit`, what was said beside the name, and not in a file that the name replaces a word of.
    Raises: ConfigError, if the iterations are said too, and otherwise.
    """
    given = values.get("algorithm")
    name = given.get("name") if isinstance(given, Mapping) else given
    named = re.fullmatch(r"imaml-(\d+)-(\d+)", name, re.IGNORECASE) if isinstance(name, str) else None
    if named is None:
        return
    values["algorithm"] = {**given, "name": "imaml"} if isinstance(given, Mapping) else "imaml"
    for field, count in zip(("iterations", "inner_steps"), map(int, named.groups()), strict=True):
        if explicit.get(field, count) != count:
            raise ConfigError(f"algorithm {name!r} means {field} = {count}, but {field} = {explicit[field]} is given "
                              f"too; leave one of them away")  # fmt: skip
        values[field] = count


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
