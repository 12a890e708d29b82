"""Graphs in the files that people have: networkx's and scipy's own readers are the oracle, where they have one.

What can be read in two ways is refused: a graph that lost an edge, or gained an agent, looks as good as any.
"""

import json

import networkx as nx
import numpy as np
import pytest

from difnet.errors import TopologyError
from difnet.topology import networks
from difnet.topology.graph_formats import read

TRIANGLE = ((0, 1), (0, 2), (1, 2))
MARKED = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.fixture
def file(tmp_path):
    """Write a file of that ending, and return its path."""

    def written(ending, text, encoding="utf-8"):
        path = tmp_path / f"net.{ending}"
        path.write_bytes(text.encode(encoding))
        return path

    return written


def edges(graph):
    """Its edges in rising order, an undirected one from the lesser agent to the greater."""
    return tuple(sorted(graph.edges if graph.is_directed() else (tuple(sorted(edge)) for edge in graph.edges)))


def same(ours, theirs):
    """Whether two graphs on 0..K-1 have the same agents, edges, direction and weights."""
    assert (set(ours), ours.is_directed(), edges(ours)) == (set(theirs), theirs.is_directed(), edges(theirs))
    np.testing.assert_allclose(nx.to_numpy_array(ours, range(len(ours))), nx.to_numpy_array(theirs, range(len(theirs))))


# --- encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize(("ending", "text"), [
    ("edgelist", "0 1\n1 2\n0 2\n"), ("edges", "0 1\r\n1 2\r\n0 2\r\n"), ("txt", "0\t1\r1\t2\r0\t2"),
    ("csv", "Source,Target\n0,1\n1,2\n0,2\n"), ("adjlist", "0 1 2\n1 2\n2\n"),
    ("json", '{"nodes": [0, 1, 2], "edges": [[0, 1], [1, 2], [0, 2]]}'),
    ("mtx", "%%MatrixMarket matrix coordinate pattern symmetric\n3 3 3\n2 1\n3 1\n3 2\n"),
    ("gml", "graph [\n" + "".join(f"node [ id {k} ]\n" for k in range(3))
     + "".join(f"edge [ source {l} target {k} ]\n" for l, k in TRIANGLE) + "]\n"),
])  # fmt: skip
def test_a_byte_order_mark_is_no_part_of_what_follows(file, ending, text, encoding):
    """It was part of the first agent's name: a triangle had four agents, without a word."""
    assert networks.load(str(file(ending, text, encoding))).edges == TRIANGLE


@pytest.mark.parametrize("encoding", MARKED)
def test_a_toml_file_may_begin_with_a_byte_order_mark(file, encoding):
    assert networks.load(str(file("toml", "edges = [[0, 1], [1, 2], [0, 2]]\r\n", encoding))).edges == TRIANGLE


def test_a_mark_where_two_files_were_joined_makes_no_agent(file):
    assert edges(read(file("edges", "\ufeff0 1\n\ufeff1 2\n"))) == ((0, 1), (1, 2))


@pytest.mark.parametrize(("encoding", "text", "said"), [
    ("utf-16-le", "0 1\n", "UTF-16 without a byte-order mark"), 
    ("latin-1", "0 1\nM\u00fcnchen 2\n", "line 2 holds the byte 0xfc"),
])  # fmt: skip
def test_other_encodings_are_refused_by_name(file, encoding, text, said):
    with pytest.raises(TopologyError, match=said):
        read(file("edgelist", text, encoding))


# --- edge lists ------------------------------------------------------------------------------------------------------

PETERSEN = [f"{l} {k}" for l, k in nx.petersen_graph().edges]


@pytest.mark.parametrize("lines", [
    PETERSEN, ["10", *PETERSEN], ["10 10 15", *PETERSEN], ["% a comment", *PETERSEN, "% another"],
    ["# a comment", "", *PETERSEN], ["source target", *PETERSEN], ["left right", *PETERSEN],
    [line.replace(" ", ";") for line in PETERSEN], ["10", *(line.replace(" ", ";") for line in PETERSEN)],
    [line.replace(" ", ",") + " # why; so" for line in PETERSEN], [line.replace(" ", ", ") for line in PETERSEN],
    [line.replace(" ", "\t") for line in ["from to", *PETERSEN]], [f"{line}  # why" for line in PETERSEN],
    [line.replace(" ", ";") + ";0,5" for line in PETERSEN],
    [f"{line} {{'weight': 2, 'colour': 'a, b'}}" for line in PETERSEN],
    [f"{line} 1" for line in PETERSEN], ['"' + line.replace(" ", '","') + '"' for line in PETERSEN],
], ids=str)  # fmt: skip
@pytest.mark.parametrize("ending", ["edgelist", "txt", "csv"])
def test_dialects_of_an_edge_list_are_one_graph(file, lines, ending):
    assert edges(read(file(ending, "\n".join(lines)))) == edges(nx.petersen_graph())


def test_weights_of_edge_lists_are_those_that_networkx_reads(file, tmp_path):
    graph = nx.cycle_graph(6)
    for n, edge in enumerate(graph.edges):
        graph.edges[edge]["weight"] = 0.25 * n - 0.5
    nx.write_weighted_edgelist(graph, tmp_path / "a.edgelist")
    nx.write_edgelist(graph, tmp_path / "b.edgelist")
    for name in "ab":
        same(read(tmp_path / f"{name}.edgelist"), graph)
    same(read(file("csv", "Source;Target;Weight\n" + "".join(
        f"{l};{k};{weight}\n".replace(".", ",") for l, k, weight in graph.edges(data="weight")))), graph)  # fmt: skip


@pytest.mark.parametrize("kind", ["Directed", "Undirected"])
def test_gephis_table_of_edges_is_read_by_the_names_of_its_columns(file, kind):
    rows = [(0, 1, 0.5), (1, 2, 2.0), (2, 0, 1.0)]
    head = "Source,Target,Type,Id,Label,timeset,Weight\n"
    found = read(file("csv", head + "".join(f"{l},{k},{kind},{n},,,{w}\n" for n, (l, k, w) in enumerate(rows))))
    wanted = nx.DiGraph() if kind == "Directed" else nx.Graph()
    wanted.add_weighted_edges_from(rows)
    same(found, wanted)


def test_names_with_blanks_are_names_in_a_table(file):
    found = read(file("csv", "Source,Target\nNew York,Boston\nBoston,Bus 12\n"))
    assert list(nx.get_node_attributes(found, "label").values()) == ["New York", "Boston", "Bus 12"]


@pytest.mark.parametrize(("text", "said"), [
    ("0 1 5\n1 2\n2\n5\n", r"line 1, '0 1 5': 3 columns, but line 2 has 2.*NAME\.adjlist"),
    ("0 1 5\n1 2\n", r"NAME\.adjlist"),
    ("0 1\n1 2 0 3\n", r"line 2, '1 2 0 3': 4 columns.*NAME\.adjlist"),
    ("0 1 3\n1 0 2\n2 1 3\n3 2 0\n", r"line 1, '0 1 3': the third column may be weights.*NAME\.adjlist"),
    ("a b c\nb d\n", r"line 1, 'a b c': 'c' after the two agents is not a weight.*NAME\.adjlist"),
    ("7\n0 1\n1 2\n", r"line 1, '7': one word, .* nor how many agents there are, 3"),
    ("5 4\n4 3\n3 2\n2 1\n1 0\n", r"line 1, '5 4': it tells that 5 agents and 4 edges follow, or is an edge"),
    ("0 1\n1 2\n2 0\nTotal: 2\n", r"line 4, 'Total: 2': 'Total:' is a word, and 3 agents are numbers"),
    ("0,1\n,2\n", r"line 2, ',2': an edge lacks one of its two agents"),
    ("0, 1 2.5\n1, 2 2.5\n", r"line 1, '0, 1 2\.5': blanks beside another mark"),
    ("source,target\n0 1\n", r"line 2, '0 1': an edge lacks one of its two agents"),
    ("Id,Label\n0,pump\n1,tank\n", "a table of nodes"),
    ("Source,Target,Type\n0,1,Directed\n1,0,Undirected\n", "line 2, '0,1,Directed': a directed edge"),
    ("Source,Target,Type\n0,1,Mutual\n", "the type 'mutual' is neither"),
    ("0,1,1\n1,0,1\n1,1,0\n", "edge to itself"),
    ("0,1,1,0\n1,0,0,1\n1,0,0,1\n0,1,1,0\n", "a matrix goes into a TOML file"),
    ("p edge 3 2\ne 1 2\ne 2 3\n", r"line 1, 'p edge 3 2': 4 columns"),
    ('0,"1\n1,2\n', "line 1"),
])  # fmt: skip
def test_what_is_no_edge_list_or_may_be_two_things_is_refused_with_its_first_odd_line(file, text, said):
    with pytest.raises(TopologyError, match=said):
        read(file("edges", text))


@pytest.mark.parametrize("K", [6, 7])
@pytest.mark.parametrize("listed", ["once", "twice"])
def test_no_adjacency_list_is_taken_for_an_edge_list_of_another_graph(file, K, listed):
    """Of graphs drawn at random: as an edge list it is the same graph, or it is refused."""
    for seed in range(40):
        graph = nx.gnp_random_graph(K, 0.5, seed=seed)
        if not nx.is_connected(graph):
            continue
        text = "\n".join(nx.generate_adjlist(graph if listed == "once" else graph.to_directed()))
        assert edges(read(file("adjlist", text))) == edges(graph)
        try:
            assert edges(read(file("edgelist", text))) == edges(graph)
        except TopologyError as error:
            assert "NAME.adjlist" in str(error)


# --- adjacency lists, documents and matrices -------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [nx.petersen_graph(), nx.cycle_graph(5, create_using=nx.DiGraph)], ids=str)
def test_adjacency_lists_of_networkx_are_its_graphs(file, tmp_path, graph):
    nx.write_adjlist(graph, tmp_path / "a.adjlist")
    text = ("# directed\n" if graph.is_directed() else "") + (tmp_path / "a.adjlist").read_text()
    theirs = nx.read_adjlist(tmp_path / "a.adjlist", nodetype=int, create_using=type(graph))
    same(read(file("adjlist", text)), theirs)
    same(read(file("adjlist", text.replace(" ", ", ").replace("#, ", "# "))), theirs)


def test_an_edge_list_with_weights_is_no_adjacency_list(file):
    with pytest.raises(TopologyError, match=r"'0\.5' is a word, and 3 agents are numbers"):
        read(file("adjlist", "0 1 0.5\n1 2 0.5\n"))


@pytest.mark.parametrize("version", ["1.1draft", "1.2draft", "1.3"])
@pytest.mark.parametrize("directed", [False, True])
def test_gexf_of_networkx_is_its_graph_whatever_the_version(tmp_path, version, directed):
    graph = nx.cycle_graph(5, create_using=nx.DiGraph if directed else nx.Graph)
    nx.set_edge_attributes(graph, {edge: 0.25 * n for n, edge in enumerate(graph.edges)}, "weight")
    nx.write_gexf(graph, tmp_path / "a.gexf", version=version)
    same(read(tmp_path / "a.gexf"), nx.read_gexf(tmp_path / "a.gexf", node_type=int, version=version))


def test_ids_of_gexf_and_gml_are_any_numbers_and_names_are_kept(tmp_path):
    graph = nx.relabel_nodes(nx.cycle_graph(4), {k: f"pump {k}" for k in range(4)})
    numbers = nx.relabel_nodes(nx.cycle_graph(4), {k: k + 1 for k in range(4)})
    nx.write_gml(graph, tmp_path / "a.gml")
    nx.write_gexf(graph, tmp_path / "a.gexf")
    nx.write_gexf(numbers, tmp_path / "b.gexf")
    nodes = "".join(f"node [ id {k} ]\n" for k in numbers)
    joined = "".join(f"edge [ source {l} target {k} ]\n" for l, k in numbers.edges)
    (tmp_path / "b.gml").write_text(f"graph [\n{nodes}{joined}]\n")
    for ending in ("gml", "gexf"):
        named, counted = read(tmp_path / f"a.{ending}"), read(tmp_path / f"b.{ending}")
        assert edges(named) == edges(counted) == edges(nx.cycle_graph(4))
        assert [named.nodes[k]["label"] for k in range(4)] == [f"pump {k}" for k in range(4)]


def test_gml_of_networkx_is_its_graph(tmp_path):
    graph = nx.karate_club_graph()
    nx.write_gml(graph, tmp_path / "k.gml")
    same(read(tmp_path / "k.gml"), nx.read_gml(tmp_path / "k.gml", label="id"))


@pytest.mark.parametrize(("ending", "text", "said"), [
    ("gexf", "<gexf><graph>", "not readable as GEXF"),
    ("gexf", '<gexf><graph><nodes><node id="0"/></nodes><edges><edge source="0" target="1"/></edges></graph></gexf>',
     "names the node '1', which is not listed"),
    ("gml", "graph [ node [ id 0 ]", "not readable as GML"), ("gml", "0 1\n", "not readable as GML"),
    ("mtx", "0 1\n", "line 1, '0 1': what is read is '%%MatrixMarket"),
    ("mtx", "%%MatrixMarket matrix array real general\n2 2\n0\n1\n1\n0\n", "coordinate"),
    ("mtx", "%%MatrixMarket matrix coordinate real general\n2 3 1\n1 2 1\n", "2 rows and 3 columns"),
    ("mtx", "%%MatrixMarket matrix coordinate real general\n2 2 2\n1 2 1\n",
     "2 entries are announced, and 1 are there"),
    ("mtx", "%%MatrixMarket matrix coordinate real general\n2 2 1\n0 1 1\n", "line 3, '0 1 1': an entry is"),
    ("mtx", "%%MatrixMarket matrix coordinate real general\n2 2 2\n1 2 1\n1 2 1\n",
     "line 4: the entry 1 2 is there twice"),
    ("mtx", "%%MatrixMarket matrix coordinate real general\n", "the line with rows, columns and entries is missing"),
    ("json", '{"nodes": [{"id": "a"}, {"id": "b"}], "links": [{"source": "a", "target": "c"}]}',
     "'c', which is none of"),
    ("json", '{"nodes": [{"name": "a"}, {"name": "a"}], "links": [{"source": "a", "target": "a"}]}',
     "is listed 2 times"),
])  # fmt: skip
def test_a_damaged_document_is_refused_with_its_place(file, ending, text, said):
    with pytest.raises(TopologyError, match=said):
        read(file(ending, text))


@pytest.mark.parametrize("symmetry", ["general", "symmetric"])
@pytest.mark.parametrize("field", ["real", "pattern"])
def test_matrix_market_is_what_scipy_reads(tmp_path, symmetry, field):
    io, sparse = pytest.importorskip("scipy.io"), pytest.importorskip("scipy.sparse")
    for graph in (nx.petersen_graph(), nx.cycle_graph(5, create_using=nx.DiGraph)):
        if symmetry == "symmetric" and graph.is_directed():
            continue
        weights = {edge: 1.0 + n * (field == "real") for n, edge in enumerate(graph.edges)}
        nx.set_edge_attributes(graph, weights, "weight")
        matrix = sparse.coo_array(nx.to_scipy_sparse_array(graph))
        io.mmwrite(path := tmp_path / "a.mtx", matrix, field=field, symmetry=symmetry)
        theirs = nx.from_scipy_sparse_array(io.mmread(path), create_using=type(graph))
        same(read(path), theirs)


def test_d3s_links_count_places_in_the_list_of_nodes(file):
    nodes = [{"name": "Myriel", "group": 1}, {"name": "Napoleon", "group": 1}, {"name": "Labarre", "group": 2}]
    links = [{"source": 1, "target": 0, "value": 8}, {"source": 2, "target": 0, "value": 10}]
    found = read(file("json", json.dumps({"nodes": nodes, "links": links})))
    assert edges(found) == ((0, 1), (0, 2))
    assert [found.nodes[k]["label"] for k in range(3)] == ["Myriel", "Napoleon", "Labarre"]
    assert found.edges[0, 1]["weight"] == 8
    words = [{"id": node["name"]} for node in nodes]
    assert edges(read(file("json", json.dumps({"nodes": words, "links": links})))) == edges(found)
    named = [{"source": nodes[link["source"]]["name"], "target": nodes[link["target"]]["name"]} for link in links]
    assert edges(read(file("json", json.dumps({"nodes": nodes, "links": named})))) == edges(found)


# --- the weights of a file -------------------------------------------------------------------------------------------


def test_weights_of_a_file_are_used_when_asked_for_and_said_to_be_ignored_otherwise(file):
    path = str(file("edgelist", "0 1 0.5\n1 2 0.25\n"))
    given = networks.load(path, weights="given")
    assert given.A.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]]
    assert given.rule == "given" and not given.unused_weights
    assert networks.load(path).unused_weights
    assert not networks.load(str(file("edgelist", "0 1 1\n1 2 1\n"))).unused_weights, "all alike say nothing"


def test_weights_of_a_directed_file_are_those_that_the_hearer_gives(file):
    A = networks.load(str(file("edgelist", "# directed\n0 1 0.5\n1 0 0.25\n")), weights="given").A
    assert A.tolist() == [[0.75, 0.5], [0.25, 0.5]]


def test_negative_weights_are_refused_only_where_they_are_used(file):
    path = str(file("edgelist", "0 1 -2\n1 2 1\n"))
    assert networks.load(path).edges == ((0, 1), (1, 2))
    with pytest.raises(TopologyError, match="edge 0-1 has weight -2"):
        networks.load(path, weights="given")


@pytest.mark.parametrize(("text", "said"), [
    ("0 1 0.5\n1 2\n", "edge 1-2 has no weight"), ("0 1 0.5\n1 0 0.25\n", "edge 0-1 has two weights"),
    ("0 1 0.75\n1 2 0.5\n", "what agent 1 hears sum to 1.25"),
])  # fmt: skip
def test_weights_that_make_no_combination_matrix_are_refused(file, text, said):
    with pytest.raises(TopologyError, match=said):
        networks.load(str(file("edgelist", text)), weights="given")


def test_a_matrix_that_a_file_gives_is_what_given_means(file):
    path = str(file("toml", "edges = [[0, 1]]\nmatrix = [[0.75, 0.25], [0.25, 0.75]]\n"))
    assert networks.load(path, weights="given").A.tolist() == networks.load(path).A.tolist()
    assert networks.load(path, weights="metropolis").A.tolist() == [[0.5, 0.5], [0.5, 0.5]]
