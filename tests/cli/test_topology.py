"""What a user types about networks: names, expressions and files, and one clear error for each that is wrong."""

import json
import sys
import time

import networkx as nx
import numpy as np
import pytest

from difnet import catalog, cli, topology
from difnet.topology import networks

MIXING_RATES = {
    "ring6": 2 / 3, "ring40": 0.991792, "ring100": 0.998684, "ring200": 0.999671, "star10": 0.9, "complete10": 0.0,
    "grid36": 0.942087, "paper6": 0.864213, "paper40": 0.969632, "small-world40": 0.976904, "erdos-renyi40": 0.849440,
    "exponential32": 2 / 3, "directed-ring10": 0.951057,
}  # fmt: skip


@pytest.fixture
def difnet(monkeypatch, capsys):
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["difnet", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_every_network_there_is_loads_and_mixes_at_the_rate_on_record():
    assert {path.stem for path in catalog.entries("topologies")} == MIXING_RATES.keys()
    for name, rate in MIXING_RATES.items():
        assert networks.load(name).mixing_rate == pytest.approx(rate, abs=1e-6)


def test_paper40_is_the_random_geometric_graph_its_file_names():
    named = nx.random_geometric_graph(40, radius=0.24, seed=21)
    assert set(networks.load("paper40").edges) == {tuple(sorted(edge)) for edge in named.edges}


def test_list_names_every_network_once(difnet):
    status, out, err = difnet("topology", "list", "--json")
    assert (status, err) == (0, "")
    assert [row["name"] for row in json.loads(out)] == sorted(MIXING_RATES)
    assert "ring40" in difnet("topology", "list")[1]


def test_show_says_what_the_network_agrees_on(difnet):
    assert "the plain mean" in difnet("topology", "show", "paper6")[1]
    status, out, _ = difnet("topology", "show", "paper6", "--weights", "averaging")
    assert status == 0 and "weighted mean: agent 2 counts 0.2778" in out and "0.720765" in out
    facts = json.loads(difnet("topology", "show", "star10", "--json")[1])
    assert facts["hub"] == 0 and facts["degree"]["most"] == 9 and facts["mixing_rate"] == pytest.approx(0.9)


@pytest.mark.slow
def test_show_draws_a_picture(difnet, tmp_path):
    for name in ("paper6", "exponential32", "star10", "grid36"):
        status, out, err = difnet("topology", "show", name, "-o", tmp_path / "net.png")
        assert status == 0 and name in out and "wrote" in err
        assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert difnet("topology", "show", "ring6", "-o", tmp_path / "net.doc")[0] == 2


def test_agents_are_coloured_by_their_distance_to_the_centroid():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    from difnet.report.network_drawing import draw_network

    for distances in (np.geomspace(1e-6, 1, 6), np.zeros(6)):
        draw_network(ax := figure.add_subplot(), networks.load("paper6"), distances)
        assert len(ax.collections[-1].get_facecolors()) == 6


def test_weights_compares_all_rules(difnet):
    rules = json.loads(difnet("topology", "weights", "paper6", "--json")[1])["rules"]
    assert rules["averaging"]["mixing_rate"] == pytest.approx(0.720765, abs=1e-6)
    assert rules["fastest"]["mixing_rate"] < rules["best-constant"]["mixing_rate"] < rules["metropolis"]["mixing_rate"]
    assert not rules["averaging"]["doubly_stochastic"]
    directed = json.loads(difnet("topology", "weights", "directed-ring10", "--json")[1])["rules"]
    assert "directed" in directed["metropolis"]["refused"] and directed["averaging"]["doubly_stochastic"]


def test_a_matrix_is_printed_to_the_last_bit(difnet):
    out = difnet("topology", "weights", "paper6", "--matrix", "metropolis")[1]
    A = np.array([[float(word) for word in line.split(",")] for line in out.splitlines()])
    assert (networks.load("paper6").A == A).all()


@pytest.mark.parametrize("ending", ["toml", "json", "graphml", "edgelist"])
@pytest.mark.parametrize("spec", ["paper6", "directed-ring10", "cycle_graph(n=5)", "complete_graph(n=1)"])
def test_a_network_comes_back_from_every_kind_of_file(difnet, tmp_path, spec, ending):
    path = tmp_path / f"net.{ending}"
    status, out, err = difnet("topology", "make", spec, "-o", path)
    assert (status, out) == (0, "") and "wrote" in err
    before, after = networks.load(spec), networks.load(str(path))
    assert (after.edges, after.directed, after.rule) == (before.edges, before.directed, before.rule)
    assert (after.A == before.A).all()


def test_a_given_matrix_and_its_hub_come_back(difnet, tmp_path):
    (tmp_path / "a.toml").write_text(
        "edges = [[0, 1], [1, 2], [0, 2]]\nhub = 2\nmatrix = [[0.5,0.25,0.25],[0.25,0.5,0.25],[0.25,0.25,0.5]]"
    )
    for ending in ("toml", "json"):
        difnet("topology", "make", tmp_path / "a.toml", "-o", tmp_path / f"b.{ending}")
        again = networks.load(str(tmp_path / f"b.{ending}"))
        assert again.A[1].tolist() == [0.25, 0.5, 0.25] and (again.hub, again.rule) == (2, "given")


def test_labels_that_are_no_numbers_are_numbered_as_they_come_and_kept(tmp_path):
    (tmp_path / "plant.edgelist").write_text("pump valve\nvalve tank 2.5\n")
    plant = networks.load(str(tmp_path / "plant.edgelist"))
    assert plant.edges == ((0, 1), (1, 2))
    assert [plant.graph.nodes[k]["label"] for k in range(3)] == ["pump", "valve", "tank"]


def test_networkx_own_files_are_understood(tmp_path):
    graph = nx.petersen_graph()
    nx.write_edgelist(graph, tmp_path / "p.edgelist")
    (tmp_path / "p.json").write_text(json.dumps(nx.node_link_data(graph, edges="links")))
    nx.write_graphml(graph, tmp_path / "p.graphml")
    for ending in ("edgelist", "json", "graphml"):
        loaded = networks.load(str(tmp_path / f"p.{ending}"))
        assert loaded.edges == tuple(sorted(tuple(sorted(edge)) for edge in graph.edges))


def test_a_file_named_in_a_toml_file_lies_beside_it(tmp_path):
    (tmp_path / "x.edgelist").write_text("# directed\n0 1\n1 2\n2 0\n")
    (tmp_path / "x.toml").write_text('file = "x.edgelist"\n')
    assert networks.load(str(tmp_path / "x.toml")).hears(0) == [2]


def test_strategies_change_who_hears_whom():
    ring = networks.load("ring6")
    assert ring.with_strategy("cta") is ring
    assert (ring.with_strategy("fully-connected").A == 1 / 6).all()
    assert ring.with_strategy("fully-connected").hears(2) == [0, 1, 3, 4, 5]
    one = ring.with_strategy("centralised")
    assert (one.agents, one.owners, one.edges, one.hears(0)) == (1, 6, (), [])
    assert topology.Topology.from_dict(one.to_dict()).owners == 6
    alone = ring.with_strategy("noncooperative")
    assert alone.mixing_rate == 1 and alone.edges == () and alone.hears(0) == []
    assert topology.Topology.from_dict(alone.to_dict()).mixing_rate == 1


WRONG_FILES = {
    "not connected: 2 parts, the smallest is [4, 5]": ("edges = [[0, 1], [1, 2], [2, 3], [4, 5]]", "toml"),
    "edge to itself": ("edges = [[0, 1], [1, 1]]", "toml"),
    "agent 2 missing": ("edges = [[0, 1], [1, 3]]", "toml"),
    "did you mean 'weights'": ("edges = [[0, 1]]\nweigths = 'metropolis'", "toml"),
    "did you mean 'metropolis'": ("edges = [[0, 1]]\nweights = 'metropolys'", "toml"),
    "one of graph, edges and file": ("agents = 3", "toml"),
    "not both": ("edges = [[0, 1]]\nweights = 'averaging'\nmatrix = [[1]]", "toml"),
    "edges are pairs": ("edges = [[0, 1, 2]]", "toml"),
    "agents = 7, but the graph has 3": ("edges = [[0, 1], [1, 2]]\nagents = 7", "toml"),
    "did you mean 'cycle": ("graph = 'cycel'\nagents = 3", "toml"),
    "need an undirected graph": ("edges = [[0, 1], [1, 0]]\ndirected = true\nweights = 'metropolis'", "toml"),
    "not strongly connected": ("edges = [[0, 1]]\ndirected = true", "toml"),
    "hub = 9 is no agent": ("edges = [[0, 1]]\nhub = 9", "toml"),
    "hub = 0 is not connected to [2]": ("edges = [[0, 1], [1, 2]]\nhub = 0", "toml"),
    "2 rows of 2 numbers": ("edges = [[0, 1]]\nmatrix = [[1, 2], [3]]", "toml"),
    "column 1 of A sums to 0.5": ("edges = [[0, 1]]\nmatrix = [[0.5, 0.5], [0.5, 0.0]]", "toml"),
    "not valid TOML": ("edges = [[0, 1]", "toml"),
    "cannot read": ("file = 'missing.edgelist'", "toml"),
    "graph is empty": ("# nobody\n", "edgelist"),
    "after the two agents": ("0 1 heavy\n", "edgelist"),
    "not valid JSON": ("{", "json"),
    "not node-link JSON": ("[1, 2]", "json"),
    "is listed 2 times": ('{"nodes": [{"id": 0}, {"id": 1}, {"id": 1}], "edges": [[0, 1]]}', "json"),
    "weight 'x'": ('{"nodes": [{"id": 0}, {"id": 1}], "links": [{"source": 0, "target": 1, "weight": "x"}]}', "json"),
    "not a network that difnet wrote": ('{"A": 3, "rule": "given", "edges": []}', "json"),
    "not readable as GraphML": ("<graphml><node", "graphml"),
}


@pytest.mark.parametrize("said", WRONG_FILES)
def test_a_wrong_file_costs_one_line_and_exit_status_2(difnet, tmp_path, said):
    text, ending = WRONG_FILES[said]
    (path := tmp_path / f"bad.{ending}").write_text(text)
    status, out, err = difnet("topology", "show", path)
    assert (status, out) == (2, "")
    assert said in err and str(path) in err and err.startswith("difnet: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ring4O", "did you mean 'ring40'"),
        ("nowhere/x.toml", "no topology file"),
        ("cycel_graph(n=3)", "did you mean 'cycle_graph'"),
        ("cycle_graph(m=3)", "It takes (n, directed=False)"),
        ("cycle_graph(n=open('x'))", "no plain number"),
        ("__import__('os')", "no graph generator"),
        ("cycle_graph(n=3", "cannot read"),
        ("erdos_renyi_graph(n=40, p=0.01)", "Or try another seed"),
        ("complete_graph(n=9999)", "edges; the limit"),
        ("hypercube_graph(n=60)", "more than 10^12 agents"),
        ("path_graph(n=1000000000)", "1000000000 agents; the limit is 10000"),
        ("planted_partition_graph(l=5000, k=5000, p_in=1, p_out=1)", "25000000 agents"),
        ("graph_atlas_g()", "not one graph"),
    ],
)
def test_a_wrong_word_costs_one_line_and_exit_status_2(difnet, spec, said):
    status, out, err = difnet("topology", "show", spec)
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "agents", "instead"),
    [("ring40", 6, "cycle_graph(n=6)"), ("star10", 5, "star_graph(n=4)"), ("complete10", 3, "complete_graph(n=3)"),
     ("directed-ring10", 4, "cycle_graph(n=4, directed=True)"), ("paper6", 9, "another topology")],
)  # fmt: skip
def test_another_number_of_agents_is_refused_with_what_to_type_instead(difnet, name, agents, instead):
    status, _, err = difnet("topology", "show", name, "--agents", agents)
    assert status == 2 and instead in err
    if "(" in instead:
        assert networks.load(instead).agents == agents


def test_a_random_generator_without_a_seed_still_gives_one_graph():
    assert networks.load("gnp_random_graph(20, 0.5)").edges == networks.load("gnp_random_graph(20, 0.5)").edges


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["edgelist", "json", "graphml"])
def test_a_file_of_a_million_agents_is_refused_quickly(difnet, tmp_path, ending):
    path, numbers = tmp_path / f"huge.{ending}", range(1_000_000)
    if ending == "edgelist":
        path.write_text("\n".join(f"{k} {k + 1}" for k in numbers))
    elif ending == "json":
        path.write_text(json.dumps({"nodes": [{"id": k} for k in numbers], "edges": []}))
    else:
        nodes = "".join(f'<node id="{k}"/>' for k in numbers)
        path.write_text(f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph>{nodes}</graph></graphml>')
    start = time.perf_counter()
    status, _, err = difnet("topology", "show", path)
    assert status == 2 and "limit" in err and err.count("\n") == 1
    assert time.perf_counter() - start < 5
