"""What a report says of costs, fairness and servers, against counts made by hand from the folders it read."""

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from difnet.cli import group
from difnet.errors import ConfigError, RunFolderError
from difnet.record import finding
from difnet.record.costs import Target
from difnet.record.events import LAUNCH_MODEL, LOCAL_AVERAGE, Ready
from difnet.record.run import Run
from difnet.report import comparison_plots, plots, tables, writing
from difnet.report.experiments import common_target, grouped
from difnet.report.page import Picture
from tests import fake_run
from tests.fake_run import Kind

FEDAVG = Kind("fedavg", server=True, accuracies=True, speed=0.7, flops=3.2e9)
META_SGD = Kind("fedmeta", 'inner = "meta-sgd"', server=True, accuracies=True, speed=1.2, flops=2.3e10)
IMAML = Kind("imaml", inner_steps=500, server=True, offline=True)
BACKWARD = Kind("meta-backward", server=True, offline=True, target="loss=0.001", abandoned=2, late=3)
EASY, HARD = Target("accuracy", "10", 0.6), Target("accuracy", "10", 0.999)


def write(folder: Path, kind: Kind, agents: int = 6, **options: object) -> Run:
    return finding.load(fake_run.write(folder, agents, kind=kind, **{"iterations": 400, **options}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two methods on a star with clients, three seeds each."""
    home = tmp_path_factory.mktemp("clients")
    kinds = (FEDAVG, META_SGD)
    return [write(home / f"{kind.algorithm}_s{seed}", kind, seed=seed) for kind in kinds for seed in range(3)]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two regressions on a star that set out from local models, one seed each."""
    home = tmp_path_factory.mktemp("offline")
    return [write(home / kind.algorithm, kind, agents=4, iterations=50, eval_every=10) for kind in (BACKWARD, IMAML)]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    home = tmp_path_factory.mktemp("networks")
    kind = Kind(tested=False)
    return [write(home / name, kind, strategy=name, iterations=100) for name in ("diffusion", "noncooperative")]


def first_with(run: Run, least: float) -> int:
    """The place of the first validation whose accuracy after ten inner steps is at least so."""
    means = [v.accuracy["10"]["mean"] for v in run.validations]
    return next(n for n, mean in enumerate(means) if mean >= least)


def rows_of(run: Run, model: str, steps: str) -> list[dict[str, str]]:
    with (run.folder / "test.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if (row["model"], row["steps"]) == (model, steps)]


def remarks(folder_runs: list[Run]) -> str:
    return " ".join(writing._missing(folder_runs))


# Folder and labels


def test_with_a_server_the_label_names_the_method(clients, offline, networks, tmp_path):
    assert list(grouped(clients)) == ["fedavg, star6", "fedmeta meta-sgd, star6"]
    assert list(grouped(offline)) == ["meta-backward, star4", "iMAML-50-500, star4"]
    assert list(grouped(networks)) == ["diffusion, ring6", "noncooperative, ring6"]
    slower = write(tmp_path / "slower", FEDAVG, outer_lr=0.001)
    assert list(grouped([*clients, slower])) == [
        "fedavg, star6, outer_lr 0.02", "fedmeta meta-sgd, star6", "fedavg, star6, outer_lr 0.001",
    ]  # fmt: skip


def test_scores_are_the_rows_of_the_table(clients, offline, networks):
    for run, model in ((clients[0], LAUNCH_MODEL), (offline[0], LOCAL_AVERAGE)):
        own = [s for s in run.scores if s.model == model and s.steps == "3"]
        by_hand = rows_of(run, model, "3")
        assert [(s.task, s.samples, s.loss) for s in own] == [
            (r["task"], int(r["samples"]), float(r["loss"])) for r in by_hand
        ]
    assert np.isnan([s.accuracy for s in offline[0].scores]).all()
    assert networks[0].scores == []


def test_a_damaged_table_of_scores_is_named(tmp_path):
    run = write(tmp_path / "torn", FEDAVG, iterations=50)
    (run.folder / "test.csv").write_text("model,task,steps,loss,accuracy\nlaunch model,0,1,0.5,\n")
    with pytest.raises(RunFolderError, match=r"damaged: no column 'samples'; expected the columns model, task"):
        _ = finding.load(run.folder).scores


def test_metrics_have_columns_of_accuracies_and_of_what_was_spent(clients):
    columns, told = clients[0].metrics(), clients[0].validations
    assert columns["accuracy_10_worst"].tolist() == [v.accuracy["10"]["worst"] for v in told]
    assert columns["spent_flops"].tolist() == [v.spent["flops"] for v in told]


def test_the_scores_of_a_torn_run_come_from_its_events(clients):
    torn = replace(clients[0], summary={})
    assert torn.tests[LAUNCH_MODEL] == clients[0].summary["test"][LAUNCH_MODEL]


# Cost to reach a target


def test_the_bars_are_the_mean_cost_at_the_first_validation_that_reached_the_target(clients):
    page = comparison_plots.costs(clients, EASY)
    spent = [run.validations[first_with(run, EASY.value)].spent for run in clients]
    for ax, name in zip(page.axes, ("payload_bytes", "flops"), strict=True):
        means = [statistics.fmean(one[name] for one in each) for each in (spent[:3], spent[3:])]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(means)


def test_the_table_of_costs_tells_mean_and_deviation_of_the_rounds(clients):
    table = tables.cost_to_reach(clients, EASY)
    rounds = [run.validations[first_with(run, EASY.value)].iteration for run in clients]
    assert [row[1] for row in table.rows] == [
        f"{statistics.mean(each):.0f} ± {statistics.stdev(each):.0f}" for each in (rounds[:3], rounds[3:])
    ]
    assert "computation energy (estimated)" in table.head


def test_a_target_out_of_reach_is_said_to_be(clients):
    assert {row[1] for row in tables.cost_to_reach(clients, HARD).rows} == {"not reached"}
    with pytest.raises(RunFolderError, match=r"no run reached accuracy ≥ 0\.999 after 10 inner steps"):
        comparison_plots.costs(clients, HARD)


def test_a_target_that_some_seeds_reached_tells_how_many(clients):
    """The second best of a method's three final accuracies is reached by two of its seeds."""
    best = [max(v.accuracy["10"]["mean"] for v in run.validations) for run in clients[:3]]
    target = Target("accuracy", "10", sorted(best)[1])
    assert tables.cost_to_reach(clients[:3], target).rows[0][1].endswith("(2 of 3 reached it)")
    words = [text.get_text() for text in comparison_plots.costs(clients, target).axes[0].texts]
    assert words[0].endswith(", 2 of 3 seeds") and "seeds" not in words[1]


@pytest.mark.parametrize("what", ["accuracy", "loss"])
def test_the_default_target_is_the_hardest_that_every_run_reached(clients, networks, what):
    chosen = clients if what == "accuracy" else networks
    target = common_target(chosen)
    assert target is not None and (target.what, target.steps) == (what, "10")
    assert all(any(target.reached(v) for v in run.validations) for run in chosen)
    harder = target._replace(value=target.value * (1.01 if what == "accuracy" else 0.99))
    assert not all(any(harder.reached(v) for v in run.validations) for run in chosen)


def test_a_default_target_is_one_that_took_learning(networks):
    """After ten inner steps this run is best before its first iteration, after one it still improves."""
    run = networks[0]
    first = run.validations[0].after["10"] | {"mean": 0.01}
    events = [replace(e, after=e.after | {"10": first}) if e is run.validations[0] else e for e in run.events]
    target = common_target([replace(run, events=events)])
    assert target is not None and target.steps == "1"


def test_runs_without_a_validation_in_common_have_no_target(networks):
    assert common_target([networks[0], replace(networks[1], events=[])]) is None


def test_the_runs_own_target_is_the_one_told(offline):
    text = " ".join(str(block) for section in writing.compose(offline) for block in section.blocks)
    assert "loss ≤ 0.001 after the most inner steps" in text and "None was asked for" not in text


# Pictures


def test_the_distribution_counts_the_test_tasks_of_all_seeds(clients):
    page = comparison_plots.distribution(clients)
    assert [ax.get_title(loc="left") for ax in page.axes] == [
        "Test accuracy after 1 inner step", "Test accuracy after 10 inner steps",
    ]  # fmt: skip
    pooled = [float(row["accuracy"]) for run in clients[:3] for row in rows_of(run, LAUNCH_MODEL, "10")]
    x, share = page.axes[1].lines[0].get_data()
    assert share[0] == 0 and x[0] == min(pooled)
    for at in (0.65, 0.875, 1.0):
        highest = share[np.flatnonzero(x <= at)[-1]]
        assert highest * len(pooled) == pytest.approx(sum(accuracy <= at for accuracy in pooled))


def test_the_average_of_the_local_models_is_a_dashed_line_drawn_once(offline, tmp_path):
    twin = write(tmp_path / "twin", BACKWARD._replace(speed=2.0), agents=4, iterations=50, eval_every=10, outer_lr=0.5)
    for shown, names in (
        (offline, [f"{LOCAL_AVERAGE} (meta-backward, star4)", f"{LOCAL_AVERAGE} (iMAML-50-500, star4)"]),
        ([offline[0], _with_scores_of(twin, offline[0])], [LOCAL_AVERAGE]),
    ):
        lines = comparison_plots.distribution(shown).axes[0].lines
        assert [line.get_label() for line in lines if line.get_linestyle() == "--"] == names
        assert len(lines) == 2 + len(names)


def _with_scores_of(run: Run, other: Run) -> Run:
    (run.folder / "test.csv").write_bytes((other.folder / "test.csv").read_bytes())
    return finding.load(run.folder)


def test_time_and_energy_are_those_of_the_last_validation(clients):
    left, right = comparison_plots.time_and_energy(clients).axes
    for ax, names in ((left, ("cpu_s", "communication_s")), (right, ("joules", "communication_joules"))):
        expected = [statistics.fmean(run.validations[-1].spent[name] for run in group)
                    for name in names for group in (clients[:3], clients[3:])]  # fmt: skip
        ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
        assert ends == pytest.approx(expected) and ax.get_xscale() == "log"  # 2 s against half an hour
    assert "estimated" in right.get_xlabel()


def test_figures_of_one_size_are_drawn_on_a_plain_axis_from_zero(clients):
    ax = comparison_plots.costs(clients, EASY).axes[0]
    assert ax.get_xscale() == "linear" and ax.get_xlim()[0] == 0


def test_the_density_of_clients_is_one_for_each_method_and_holds_all_its_clients(clients):
    (ax,) = comparison_plots.client_density(clients).axes
    assert [line.get_label() for line in ax.lines] == ["fedavg, star6 (3 seeds)", "fedmeta meta-sgd, star6 (3 seeds)"]
    for line in ax.lines:
        x, y = line.get_data()
        assert (x[0], x[-1]) == (0, 1)
        assert ((y[1:] + y[:-1]) * np.diff(x)).sum() / 2 == pytest.approx(1, abs=1e-3)


def test_runs_that_were_not_tested_have_no_distribution_and_no_density(networks):
    for draw in (comparison_plots.distribution, comparison_plots.client_density):
        with pytest.raises(RunFolderError, match=r"no test\.csv"):
            draw(networks)
    assert "not tested" in remarks(networks)


def test_accuracy_against_rounds_is_the_mean_of_the_seeds(clients, networks):
    (ax,) = plots.validation([*clients, *networks], what="accuracy").axes
    assert len(ax.lines) == 2
    means = np.mean([[v.accuracy["1"]["mean"] for v in run.validations] for run in clients[:3]], axis=0)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), means, rtol=1e-13)
    with pytest.raises(RunFolderError, match="validated by their accuracy"):
        plots.validation(networks, what="accuracy")


def test_theory_takes_the_mixing_rate_of_the_exchange_as_it_was(networks):
    run = networks[0]
    ready = [replace(e, mixing_rate=0.5) if isinstance(e, Ready) else e for e in run.events]
    (ax,) = plots.consensus([replace(run, events=ready)]).axes
    assert any("0.5000" in label for label in ax.get_legend_handles_labels()[1])


# Tables and page


def test_several_seeds_have_students_confidence_interval(clients):
    (_, table) = tables.on_test_tasks(clients)
    row = next(row for row in table.rows if row[0] == "accuracy after 10 inner steps, over all samples")  # type: ignore[union-attr]
    micro = []
    for run in clients[:3]:
        told = rows_of(run, LAUNCH_MODEL, "10")
        right = sum(float(r["accuracy"]) * int(r["samples"]) for r in told)
        micro.append(right / sum(int(r["samples"]) for r in told))
    half = 4.303 * statistics.stdev(micro) / 3**0.5  # t of 0.975 with 2 degrees of freedom, from a printed table
    assert row[1] == f"{statistics.mean(micro):.3g} ± {half:.3g}"


def test_both_models_have_a_table_where_both_were_tested(clients, offline):
    assert len(tables.on_test_tasks(clients)) == 2  # words and a table
    assert [b.head[0] for b in tables.on_test_tasks(offline)[1::2]] == [  # type: ignore[union-attr]
        "test, launch model", "test, average of the local models",
    ]  # fmt: skip


@pytest.mark.slow
def test_clients_csv_holds_every_score_of_every_run(clients, tmp_path):
    writing.write(clients[2:4], tmp_path)
    with (tmp_path / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(run.scores) for run in clients[2:4])
    first, last = rows[0], rows[-1]
    assert (first["experiment"], first["seed"], first["task"]) == ("fedavg, star6", "2", "client 000")
    assert float(last["accuracy"]) == clients[3].scores[-1].accuracy


@pytest.mark.slow
def test_a_report_of_servers_speaks_of_no_agreement(clients):
    sections = {section.title: section.blocks for section in writing.compose(clients, [EASY])}
    files = [block.file for block in sections["Pictures"] if isinstance(block, Picture)]
    assert files == ["validation.png", "validation-accuracy.png", "distribution.png", "density.png", "time-energy.png",
                     "network-1.png"]  # fmt: skip
    told = str(sections)
    for word in ("consensus", "doubly stochastic", "weighted mean", "unknown: server", "unknown: target"):
        assert word not in told, word
    assert "payload up" in told and "none: a server" in told


def test_beside_a_network_a_server_has_no_consensus_error(clients, networks):
    row = next(row for row in tables.outcome([clients[0], networks[0]]).rows if row[0] == "consensus error")
    assert row[1] == "–" and float(row[2]) > 0


def test_what_a_server_went_without_is_remarked(clients, offline):
    told = remarks(offline)
    for words in ("abandoned rounds: 2.", "late answers: 3.", "the target loss=0.001 was not reached."):
        assert words in told, words
    assert "abandoned" not in remarks(clients) and "late" not in remarks(clients)


@pytest.mark.slow
def test_the_page_escapes_what_a_run_is_called(tmp_path):
    folder = fake_run.write(tmp_path / "sly", 6, iterations=100, run="<script>alert(1)</script>")
    page = writing.write([finding.load(folder)], tmp_path / "report")
    assert "<script" not in page.read_text() and "&lt;script&gt;alert(1)" in page.read_text()
    assert "<script" not in (tmp_path / "report" / "report.md").read_text()


SLY = "\x1b]0;owned\x07<b>$\\frac$ | ![x](http://x/y.png) `````\nand more"


def test_a_sly_name_is_nothing_but_words_in_reports_and_pictures(tmp_path):
    """No escape sequence, tag, picture from elsewhere, cell, code or formula; also not in a configuration."""
    folder = fake_run.write(tmp_path / "sly", 6, iterations=100, run=SLY)
    topology = json.loads((folder / "topology.json").read_text()) | {"name": SLY}
    (folder / "topology.json").write_text(json.dumps(topology))
    (folder / "config.toml").write_text("topology = 'ring6' # `````\n")
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | {"topology": SLY}))
    page = writing.write([finding.load(folder)], tmp_path / "report")
    for text in (page.read_text(), page.with_suffix(".md").read_text()):
        assert "\x1b" not in text and "\x07" not in text and "<b>" not in text
    told = page.with_suffix(".md").read_text()
    assert told.startswith("# \\]0;owned &lt;b>$\\\\frac$ \\| !\\[x\\](http://x/y.png) \\`\\`\\`\\`\\` and more\n")
    assert "\n``````\ntopology = 'ring6' # `````" in told


def test_an_unfinished_run_gets_a_report_that_admits_it(tmp_path):
    fake_run.write_events(tmp_path / "torn", list(fake_run.events(6, iterations=100))[:3])
    text = writing.write([finding.load(tmp_path / "torn")], tmp_path / "report").read_text()
    for words in ("unfinished; the figures", "picture is missing", "the folder has no config.toml",
                  "no validation in common"):  # fmt: skip
        assert words in text, words


# The command


@pytest.mark.slow
def test_report_tells_the_cost_of_the_targets_asked_for(clients, tmp_path):
    words = ["report", str(clients[0].folder), "-o", str(tmp_path), "--target", "accuracy=0.5", "--target", "loss@1=2"]
    assert CliRunner().invoke(group, words).exit_code == 0
    page = (tmp_path / "report.md").read_text()
    assert "accuracy ≥ 0.5 after the most inner steps" in page and "loss ≤ 2 after 1 inner step." in page
    assert (tmp_path / "cost-2.png").is_file()


def test_a_target_that_is_none_costs_one_line(clients, tmp_path):
    result = CliRunner().invoke(group, ["report", str(clients[0].folder), "-o", str(tmp_path), "--target", "speed=3"])
    assert isinstance(result.exception, ConfigError) and not list(tmp_path.iterdir())


def test_experiments_that_differ_in_how_they_were_measured_alone_are_still_told_apart(tmp_path):
    """How often a run was validated is no part of its label unless two would be one without it."""
    folders = []
    for name, changes in {"a": {}, "b": {"eval_every": 7}, "c": {"eval_every": 7, "outer_lr": 0.5}}.items():
        folder = fake_run.write(tmp_path / name, 12, iterations=200)
        config = (folder / "config.toml").read_text().splitlines()
        for key, value in changes.items():
            config = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in config]
        (folder / "config.toml").write_text("\n".join(config))
        folders.append(folder)
    a, b, c = (finding.load(folder) for folder in folders)
    assert len(grouped([a, b, c])) == 3
    assert [*grouped([a, c])] == ["diffusion, ring12, outer_lr 0.02", "diffusion, ring12, outer_lr 0.5"]
