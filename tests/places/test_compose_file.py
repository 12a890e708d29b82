"""A run as a compose file: the same run, valid for every Compose, and with no right that it does not need."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from difnet.cli import group
from difnet.errors import ConfigError, DifnetError
from tests.conftest import REPOSITORY, Result

ROOT = REPOSITORY / "docker-compose.yml"
CLIENTS = [client for client in (["docker-compose"], ["docker", "compose"]) if shutil.which(client[0])]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFNET_IMAGE", raising=False)
    monkeypatch.delenv("DIFNET_TOKEN", raising=False)


def command(*words: str) -> str:
    """What a command prints when all is well."""
    done = CliRunner().invoke(group, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def read(text: str) -> dict[str, Any]:
    """A YAML document, as somebody else's reader takes it."""
    yaml = pytest.importorskip("ruamel.yaml", reason="pip install check-jsonschema brings a YAML reader")
    return yaml.YAML(typ="safe").load(text)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compose files of every kind."""
    folder = tmp_path_factory.mktemp("files")
    words = {
        "many": ["export", "compose", "--topology", "cycle_graph(n=61)"],
        "few": ["export", "compose", "star5", "--agents-per-host", "2", "--set", "name=a $HOME \"of\" 'ours'"],
        "place": ["launch", "--place", "compose", "--topology", "path_graph(n=3)", "--dry-run"],
    }
    for name, said in words.items():
        (folder / f"{name}.yml").write_text(command(*said))
    return {"root": ROOT, **{name: folder / f"{name}.yml" for name in words}}


@pytest.mark.slow
def test_the_file_at_the_root_is_what_the_command_in_its_first_line_prints(difnet: Callable[..., Result]) -> None:
    first = ROOT.read_text().splitlines()[0]
    done = difnet(*shlex.split(first.removeprefix("# "))[1:])
    assert done.out == ROOT.read_text(), done.err


@pytest.mark.parametrize("name", ["root", "many", "few", "place"])
def test_the_specification_allows_it(name: str, files: dict[str, Path]) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(files[name])]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not CLIENTS, reason="no Compose here: apt-get install docker-compose")
@pytest.mark.parametrize("name", ["root", "many", "few", "place"])
@pytest.mark.parametrize("client", CLIENTS, ids=" ".join)
def test_compose_accepts_it(client: list[str], name: str, files: dict[str, Path]) -> None:
    if subprocess.run([*client, "version"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip(f"{' '.join(client)} is not installed: apt-get install docker-compose, or Docker's compose plugin")
    done = subprocess.run([*client, "-f", files[name], "config"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()


@pytest.mark.parametrize("name", ["root", "many", "few", "place"])
def test_no_service_has_a_right_it_does_not_need(name: str, files: dict[str, Path]) -> None:
    document = read(files[name].read_text())
    for service, told in document["services"].items():
        assert told["read_only"] is True and told["init"] is True, service
        assert told["cap_drop"] == ["ALL"] and told["security_opt"] == ["no-new-privileges:true"], service
        assert not told.keys() & {"cap_add", "privileged", "network_mode", "pid", "ipc", "devices", "user"}, service
        assert told["mem_limit"] and told["pids_limit"] and told["logging"]["options"]["max-size"], service
        assert "python" not in str(told["healthcheck"]["test"]).lower()
        assert ("ports" in told) == (service == "report")
        if service != "report" and name != "place":
            assert all(document["networks"][network]["internal"] for network in told["networks"]), service


def test_only_the_page_is_published_and_only_to_this_machine() -> None:
    document = read(ROOT.read_text())
    report = document["services"]["report"]
    assert report["ports"] == ["127.0.0.1:${DIFNET_PORT:-8000}:8000"]
    assert not document["networks"][report["networks"][0]]  # nothing said: an ordinary one
    assert report["volumes"] == ["runs:/runs:ro"]


@pytest.mark.parametrize("name, prefix, count", [("root", "", 5), ("root", "paper6-", 6), ("root", "star5-", 5),
                                                 ("many", "", 61), ("few", "", 5)])  # fmt: skip
def test_every_agent_is_somewhere_once_under_the_name_by_which_others_find_it(
    name: str, prefix: str, count: int, files: dict[str, Path]
) -> None:
    from difnet.places import parse_agents as numbers

    services = read(files[name].read_text())["services"]
    dashboard = services[f"{prefix}dashboard"]
    hosts = {s: told for s, told in services.items() if told["networks"] == dashboard["networks"]}
    del hosts[f"{prefix}dashboard"]
    placed = [k for told in hosts.values() for k in numbers(told["environment"]["DIFNET_AGENTS"])]
    assert placed == list(range(count))
    assert [told["environment"]["DIFNET_ADVERTISE"] for told in hosts.values()] == list(hosts)
    assert {told["environment"]["DIFNET_REGISTRY"] for told in hosts.values()} == {f"tcp://{prefix}dashboard:5600"}
    assert dashboard["command"][dashboard["command"].index("--hosts-expected") + 1] == str(len(hosts))
    assert set(dashboard["depends_on"]) == {*hosts, "report"}
    assert not any("depends_on" in told for told in hosts.values())


def test_a_profile_is_whole_without_the_services_outside_of_it() -> None:
    services = read(ROOT.read_text())["services"]
    for profile in ("paper6", "star5"):
        mine = {name for name, told in services.items() if told.get("profiles") == [profile]}
        assert mine == {name for name in services if name.startswith(f"{profile}-")}


@pytest.mark.parametrize(
    "words",
    [
        ["--topology", "cycle_graph(n=5)", "--iterations", "50"],
        ["federated"],
        ["meta-backward", "--seed", "7"],
        [
            "--topology",
            "star10",
            "--algorithm",
            "fedmeta",
            "--set",
            "algorithm.inner=meta-sgd",
            "--set",
            "server.clients=4",
        ],
        ["--topology", "ring6", "--algorithm", "iMAML-50-7", "--target", "loss@1=0.5", "--dtype", "float64"],
        [
            "--topology",
            "ring6",
            "--name",
            "a $HOME \"of\" 'ours' ü",
            "--set",
            "eval_steps=[1, 3]",
            "--inner-lr",
            "1e-7",
        ],
    ],
    ids=lambda words: " ".join(words[:4]),
)
def test_the_dashboard_is_told_the_same_run(words: list[str]) -> None:
    services = read(command("export", "compose", *words))["services"]
    started = [word.replace("$$", "$") for word in services["dashboard"]["command"]]
    assert started[0] == "launch" and not any(
        "$" in word.replace("$$", "") for word in services["dashboard"]["command"]
    )
    own = ["hosts_expected", "registry", "runs", "place", "ready_timeout_s"]  # what follows from the file
    meant, told = (
        [line for line in command("launch", *said, "--print-config").splitlines() if line.split(" = ")[0] not in own]
        for said in (words, started[1:])
    )
    assert told == meant


def test_a_users_own_network_is_mounted_for_the_launcher_alone(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "mine.edgelist").write_text("0 1\n1 2\n")
    command("export", "compose", "--topology", "mine.edgelist", "-o", "files/own.yml")
    services = read((tmp_path / "files" / "own.yml").read_text())["services"]
    assert services["dashboard"]["volumes"] == ["runs:/runs", "../mine.edgelist:/topologies/mine.edgelist:ro"]
    assert services["dashboard"]["command"][:3] == ["launch", "--topology", "/topologies/mine.edgelist"]
    assert {name: told["volumes"] for name, told in services.items() if name not in ("dashboard", "report")} == {
        f"agent-{k}": ["checkpoints:/checkpoints"] for k in range(3)}


def test_data_and_a_first_launch_model_are_mounted_where_hosts_look_for_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "first.safetensors").touch()
    words = ["--task", "omniglot", "--data-dir", "data", "--init", "from:first.safetensors"]
    services = read(command("export", "compose", "--topology", "path_graph(n=2)", *words))["services"]
    first = tmp_path / "first.safetensors"
    mounted = ["checkpoints:/checkpoints", f"{first}:{first}:ro", f"{tmp_path}/data:/data:ro"]
    assert services["agent-1"]["volumes"] == mounted
    assert f"init=from:{first}" in services["dashboard"]["command"]
    assert "data_dir=data" in services["dashboard"]["command"]  # below /, where a container's commands run


def test_a_file_that_is_there_is_written_over_only_by_force(tmp_path: Path) -> None:
    words = ["export", "compose", "--topology", "path_graph(n=2)", "-o", "a.yml"]
    (tmp_path / "a.yml").write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        command(*words)
    assert (tmp_path / "a.yml").read_text() == "mine"
    assert command(*words, "--force") == "a.yml\n"
    assert read((tmp_path / "a.yml").read_text())["services"].keys() == {"agent-0", "agent-1", "dashboard", "report"}


@pytest.mark.parametrize(
    "words, status, reason",
    [
        (["--profile", "paper7"], 2, "paper6"),
        (["--task", "mine:task"], 2, "DIFNET_IMAGE"),
        (["--device", "cuda"], 2, "leave --device away"),
        (["--init", "from:missing"], 3, "missing"),
        (["--init", "from:private"], 3, "chmod o\\+r .*launch-model.safetensors"),
        (["--task", "mnist", "--data-dir", "missing"], 3, "missing"),
        (["--topology", "two.toml"], 2, "difnet topology make"),
        (["--topology", "nowhere"], 2, "no topology called 'nowhere'"),
        (["--iterations", "0"], 2, "iterations"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_in_containers_is_refused_with_the_remedy(
    words: list[str], status: int, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "two.toml").write_text('file = "one.edgelist"\n')
    (tmp_path / "one.edgelist").write_text("0 1\n")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "launch-model.safetensors").touch(mode=0o600)
    with pytest.raises(DifnetError, match=reason) as refused:
        command("export", "compose", *words)
    assert refused.value.exit_code == status


def test_an_image_of_ones_own_may_have_a_task_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def task(agents, shots, queries): ...\n")
    monkeypatch.setenv("DIFNET_IMAGE", "ours:1")
    monkeypatch.syspath_prepend(tmp_path)
    services = read(command("export", "compose", "--topology", "path_graph(n=2)", "--task", "mine:task"))["services"]
    assert {told["image"] for told in services.values()} == {"${DIFNET_IMAGE:-ours:1}"}


def test_a_token_reaches_the_hosts_as_it_is_whatever_it_consists_of() -> None:
    """Compose replaces $VARIABLES, and takes $$ for one dollar."""
    from difnet.config import load
    from difnet.places import Contract
    from difnet.places._compose_file import network, started

    text = started(network(load(settings={"topology": "ring6"})), Contract("a", "tcp://10.0.0.1:5600", 'x$Y"{#'), "net")
    told = read(text)["services"]["agent-5"]["environment"]
    assert (told["DIFNET_TOKEN"], told["DIFNET_AGENTS"], told["DIFNET_RUN_ID"]) == ('x$$Y"{#', "5", "a")


@pytest.mark.slow
def test_without_docker_a_launch_in_containers_is_refused_and_nothing_is_begun(
    tmp_path: Path, difnet: Callable[..., Result]
) -> None:
    (tmp_path / "empty").mkdir()
    refused = difnet("launch", "--place", "compose", "--topology", "ring6", PATH=str(tmp_path / "empty"))
    assert refused.status == 3 and "install" in refused.err and "Traceback" not in refused.err
    assert os.listdir(tmp_path) == ["empty"]


def test_help_tells_of_both_kinds_of_export() -> None:
    assert "difnet export compose" in command("export", "--help")
    told = command("export", "compose", "--help")
    assert "--profile" in told and "Examples:" in told


def test_a_strategy_with_one_learner_has_one_container_for_it() -> None:
    """However many agents the topology has."""
    services = read(command("export", "compose", "--topology", "ring6", "--strategy", "centralised"))["services"]
    assert sum(name.startswith(("agent", "host")) for name in services) == 1
