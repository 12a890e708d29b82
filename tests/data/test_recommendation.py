"""Recommendation: small tables of records and simple recommenders worked out by hand, and MovieLens' own counts."""

import csv
import io
import zipfile
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from difnet import catalog
from difnet.data.ratings import read
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from difnet.maths.baselines import most_recently_used, naive_bayes, top
from difnet.meta import Tasks
from difnet.tasks.recommendation import features, recommendation
from tests.data.files import gz, refused, scrambled, zipped

USED = """userId,service,timestamp
ann,mail,{0}
bob,news,{1}
ann,mail,{2}
ann,maps,{3}
bob,mail,{4}
ann,mail,{5}
"""
MONDAY = int(datetime(2024, 1, 1, 4, 30, tzinfo=UTC).timestamp())  # the second eighth of the day
TIMES = [MONDAY, MONDAY, MONDAY + 7, MONDAY + 70, MONDAY - 5, MONDAY + 86_400]
RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,3.5,50\n2,10,1.0,7\n1,30,0.5,200\n"
MOVIES = 'movieId,title,genres\n10,"One, two",Drama|War\n20,Two,Comedy\n30,Three,Drama\n'


@pytest.fixture
def place(tmp_path):
    (tmp_path / "usage.csv").write_text(USED.format(*TIMES))
    return tmp_path


@pytest.fixture
def films(tmp_path):
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "movies.csv").write_text(MOVIES)
    return tmp_path


def usage(place, **options):
    return read(place, **{"item": "service", "file": "usage.csv", "classes": 3} | options)


# --- the table -------------------------------------------------------------------------------------------------------


def test_records_are_sorted_by_time_and_items_numbered_as_each_user_meets_them(place):
    """Bob's mail comes before his news, though it is further down: mail is his first class, and Ann's first as well."""
    table = usage(place)
    assert list(table.names) == ["user-ann", "user-bob"] and table.sizes.tolist() == [4, 2]
    assert table.targets.tolist() == [0, 0, 1, 0, 0, 1] and table.targets.dtype == np.int64
    assert table.facts["items"] == 3


def test_what_is_known_of_a_record_is_made_of_the_records_before_it(place):
    """By hand: the last class, eighth of the day, weekday, floor(log_8 of the seconds since), the classes so far."""
    assert usage(place).inputs.tolist() == [
        [-1, 1, 0, -1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0], [0, 1, 0, 1, 2, 0, 0], [1, 1, 1, 5, 2, 1, 0],
        [-1, 1, 0, -1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0],
    ]  # fmt: skip


def test_the_past_of_a_record_does_not_change_with_what_comes_after_it(place):
    before = usage(place)
    (place / "usage.csv").write_text(USED.format(*TIMES) + f"ann,chess,{MONDAY + 90_000}\nann,news,{MONDAY + 90_001}\n")
    after = usage(place)
    assert after.sizes.tolist() == [6, 2] and after.inputs[:4].tolist() == before.inputs[:4].tolist()
    assert after.targets[:4].tolist() == before.targets[:4].tolist()


def test_items_beyond_the_last_class_are_the_last_class(place):
    rows = "".join(f"cat,item{n},{100 + n}\n" for n in range(5)) + "cat,item0,200\ncat,item3,300\n"
    (place / "usage.csv").write_text("userId,service,timestamp\n" + rows)
    table = usage(place)
    assert table.targets.tolist() == [0, 1, 2, 2, 2, 0, 2] and table.facts["beyond the classes"] == 3
    assert table.inputs[-1].tolist()[4:] == [2, 1, 3]


def test_records_of_one_time_stay_in_the_order_of_the_file(place):
    (place / "usage.csv").write_text("userId,service,timestamp\n" + "".join(f"a,{s},5\n" for s in "xyxxyz"))
    assert usage(place).targets.tolist() == [0, 1, 0, 0, 1, 2]


def test_dates_are_read_as_seconds_in_utc(place):
    number = usage(place)
    stamps = [datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in TIMES]
    stamps[3] = datetime.fromtimestamp(TIMES[3], UTC).isoformat()
    (place / "usage.csv").write_text(USED.format(*stamps))
    assert usage(place).digest == number.digest


def test_columns_have_the_names_that_are_given(place):
    same = usage(place)
    text = USED.format(*TIMES).replace("userId,service,timestamp", "who\twhat\twhen").replace(",", "\t")
    (place / "usage.csv").write_text("\ufeff" + text)
    assert usage(place, user="who", item="what", time="when").digest == same.digest


def test_films_are_known_by_their_first_genre(films):
    """User 1 rates a comedy, a drama, and another drama."""
    table = read(films)
    assert list(table.names) == ["user-1", "user-2"] and table.targets.tolist() == [0, 1, 1, 0]
    assert table.facts["items"] == 2 and table.inputs.shape == (4, 44)
    assert read(films, item="movieId").targets.tolist() == [0, 1, 2, 0]


def test_a_zip_a_packed_table_and_the_older_files_give_the_same_table(films, tmp_path):
    want = read(films).digest
    places = [tmp_path / name for name in "abcd"]
    for folder in places:
        folder.mkdir()
    zipped(places[0] / "ml.zip", [("ml/readme.txt", b"?"), ("ml/movies.csv", MOVIES.encode()),
                                  ("ml/ratings.csv", RATINGS.encode())])  # fmt: skip
    (places[1] / "ml").mkdir()
    gz(places[1] / "ml" / "ratings.csv.gz", RATINGS.encode())
    (places[1] / "ml" / "movies.csv").write_text(MOVIES)
    old = RATINGS.partition("\n")[2]
    (places[2] / "ratings.dat").write_text(old.replace(",", "::"))
    (places[2] / "movies.dat").write_bytes("10::Één::Drama|War\n20::Two::Comedy\n30::Three::Drama\n".encode("latin-1"))
    assert [read(folder).digest for folder in places[:3]] == [want] * 3
    (places[3] / "u.data").write_text(old.replace(",", "\t"))
    assert read(places[3], item="movieId").digest == read(films, item="movieId").digest


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ratings.csv", b"", "is empty"), ("ratings.csv", RATINGS.partition("\n")[0].encode(), "no records"),
        ("ratings.csv", b"a,b\n1,2\n", "no column 'userId' among a, b"),
        ("ratings.csv", b"\x89PNG\xff\xfe\n\x00", "UTF-8"),
        ("ratings.csv", RATINGS[:-5].encode(), "line 5: 3 columns"),
        ("ratings.csv", RATINGS.replace(",50\n", ",soon\n").encode(), "line 3: time 'soon'"),
        ("ratings.csv", RATINGS.replace(",50\n", ",nan\n").encode(), "line 3: time 'nan'"),
        ("ratings.csv", RATINGS.replace("1,30", "1,31").encode(), "line 5: film '31' is not in"),
        ("movies.csv", b"", "is empty"),
        ("movies.csv", MOVIES.replace("genres", "kinds").encode(), "no column 'genres'"),
        ("movies.csv", MOVIES.replace('two"', "two").encode(), "unexpected end of data"),
    ],
)  # fmt: skip
def test_a_broken_table_is_named_with_the_line(films, name, content, said):
    (films / name).write_bytes(content)
    refused(lambda: read(films), films / name, said)


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[:-40], lambda whole: b"<html>" * 20,
                                   scrambled],
                         ids=["empty", "cut off", "foreign", "scrambled"])  # fmt: skip
def test_a_broken_zip_is_named(tmp_path, spoil):
    rows = "".join(f"{n % 7},{n},3,{n * n % 1000}\n" for n in range(400))
    path = zipped(tmp_path / "ml.zip", [("ratings.csv", (RATINGS + rows).encode()), ("movies.csv", MOVIES.encode())])
    path.write_bytes(spoil(path.read_bytes()))
    refused(lambda: read(tmp_path, item="movieId"), path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_that_a_spreadsheet_saved_is_the_same_table(place, encoding):
    """With a byte-order mark, blanks around the names of columns, semicolons, and lines in which nothing stands."""
    same = usage(place)
    text = USED.format(*TIMES).replace("userId,service,timestamp", " userId , service,timestamp ").replace(",", ";")
    (place / "usage.csv").write_bytes((text + ";;\n\n  \n").encode(encoding))
    assert usage(place).digest == same.digest


@pytest.mark.parametrize(("line", "said"), [
    (",mail,5", "line 8: nothing in the column 'userId'"), ("ann, ,5", "line 8: nothing in the column 'service'"),
])  # fmt: skip
def test_a_record_without_a_user_or_an_item_is_refused_with_its_line(place, line, said):
    """It was a client called "user-", or a class of its own."""
    (place / "usage.csv").write_text(USED.format(*TIMES) + line + "\n")
    refused(lambda: usage(place), place / "usage.csv", said)


def test_a_film_without_a_genre_is_refused_with_its_line(films):
    (films / "movies.csv").write_text(MOVIES.replace("Comedy", ""))
    refused(lambda: read(films), films / "movies.csv", "line 3: film '20' has no first genre")


@pytest.mark.parametrize("content", ["userId,service,timestamp\nJosé,mail,5\n".encode("latin-1"),
                                     "userId,service,timestamp\n".encode("utf-16-le"),
                                     b"userId,service,timestamp\nann,mail\n"])  # fmt: skip
def test_somebody_s_own_table_has_no_owner_to_fetch_it_from(place, content):
    (place / "usage.csv").write_bytes(content)
    with pytest.raises(DataError, match="save it as UTF-8") as error:
        usage(place)
    assert "owner" not in str(error.value) and "fetch" not in str(error.value)


def test_a_table_nearer_by_is_taken_before_one_of_the_same_name_below(films):
    (films / "a").mkdir()
    (films / "a" / "ratings.csv").write_text(RATINGS + "9,10,1.0,300\n")
    assert read(films).groups == 2
    (films / "ratings.csv").unlink()
    (films / "a" / "movies.csv").write_text(MOVIES)
    assert read(films).groups == 3


def test_films_without_genres_are_refused_with_what_to_do(films):
    (films / "movies.csv").unlink()
    refused(lambda: read(films), films / "ratings.csv", "no movies.csv", "task.item")


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(EnvironmentLacks, match=r"none of ratings\.csv"):
        read(tmp_path)
    with pytest.raises(EnvironmentLacks, match=r"lacks the table mine\.csv"):
        read(tmp_path, file="mine.csv")
    with pytest.raises(ConfigError, match=r"task\.classes is 1"):
        read(tmp_path, classes=1)


# --- the features ----------------------------------------------------------------------------------------------------


def test_forty_classes_make_103_features_in_five_blocks_that_sum_to_one():
    """By hand: last class 7, of seven records two of class 0 and five of class 7, evening, Sunday, a minute's pause."""
    known = np.zeros((2, 44), np.int32)
    known[0, :4] = known[1, :4] = [-1, 0, 0, -1]
    known[1] = [7, 6, 6, 2, 2, 0, 0, 0, 0, 0, 0, 5, *[0] * 32]
    x = features(known)
    assert x.shape == (2, 103) and x.dtype == np.float32
    want = np.zeros(103, np.float32)
    want[[7, 40, 47, 80 + 6, 88 + 6, 95 + 2]] = [1, 2 / 7, 5 / 7, 1, 1, 1]
    np.testing.assert_allclose(x[1], want)
    assert np.flatnonzero(x[0]).tolist() == [80, 88]


# --- simple recommenders ---------------------------------------------------------------------------------------------


def test_recency_is_that_of_a_list_with_the_last_used_moved_to_its_front():
    """Against such a list, for 300 random records, of which the first 100 are for support."""
    used = np.random.default_rng(0).integers(6, size=301)
    last = torch.eye(6)[used[:-1]]
    scores = most_recently_used(last[:100], last[100:])
    order: list[int] = []
    for n, item in enumerate(used[:-1]):
        order = [item, *(other for other in order if other != item)]
        if n >= 100:
            assert scores[n - 100].argsort(descending=True)[: len(order)].tolist() == order


def test_naive_bayes_agrees_with_products_of_chances_worked_out_by_hand():
    """Two classes, three features; class 0 has sums 3, 1, 0, class 1 has 0, 1, 1; each sum gets one more."""
    x = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    scores = naive_bayes((x, torch.tensor([0, 0, 1])), torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), classes=3)
    chances = [[2 / 3 * 4 / 7 * (1 / 7) ** 2, 1 / 3 * 1 / 5 * (2 / 5) ** 2], [2 / 3 * 2 / 7, 1 / 3 * 2 / 5]]
    torch.testing.assert_close(scores[:, :2].exp(), torch.tensor(chances))
    assert (scores[:, 2] == -torch.inf).all()


def test_naive_bayes_agrees_with_scikit_learn():
    bayes = pytest.importorskip("sklearn.naive_bayes")
    rng = np.random.default_rng(1)
    x, y, q = rng.random((50, 7)), rng.integers(4, size=50), rng.random((20, 7))
    scores = naive_bayes((torch.tensor(x), torch.tensor(y)), torch.tensor(q), classes=4, smoothing=0.5)
    theirs = bayes.MultinomialNB(alpha=0.5).fit(x, y).predict_joint_log_proba(q)
    np.testing.assert_allclose(scores.numpy(), theirs, rtol=1e-9)


def test_top_k_counts_the_classes_that_rank_before_the_target():
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 9.0]])
    targets = torch.tensor([1, 2, 0])
    assert [round(float(top(scores, targets, k)), 4) for k in (1, 2, 3, 4)] == [0.0, 0.6667, 1.0, 1.0]
    impossible = torch.full((2, 5), -torch.inf)
    assert float(top(impossible, torch.tensor([0, 4]), 4)) == 0.5


# --- the family ------------------------------------------------------------------------------------------------------


@pytest.fixture
def family(tmp_path):
    """Thirty users with 50 records each of six services: always the one after the last, now and then another."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "movielens-small"
    folder.mkdir()
    with open(folder / "usage.csv", "w") as file:
        file.write("userId,service,timestamp\n")
        for user in range(30):
            item = 0
            for n in range(50):
                item = (item + 1) % 6 if rng.random() < 0.9 else int(rng.integers(6))
                file.write(f"{user},s{item},{n * 4000 + user}\n")

    def made(**options):
        return recommendation(agents=2, shots=4, queries=3, data_dir=str(tmp_path), item="service", file="usage.csv",
                              **options)  # fmt: skip

    return made


def test_support_is_the_first_part_of_a_client_s_records_and_query_the_last_fifth(family):
    """The number of records so far is told by the frequencies: the n-th record's are multiples of 1 / (n - 1)."""
    for support, first in ((0.8, 40), (0.05, 3)):
        for client in family(support=support).held_out("test"):
            assert [len(y) for y in (client.support[1], client.query[1])] == [first, 10]
            assert client.support[0][0, 40:80].sum() == 0  # the very first
            counts = client.query[0][0, 40:80] * 40
            torch.testing.assert_close(counts, counts.round())  # the 41st
            last = client.query[0][1:, :40].argmax(1)
            assert torch.equal(last, client.query[1][:-1])  # one after another


def test_shares_of_more_than_all_records_are_refused(family):
    with pytest.raises(ConfigError, match=r"task\.support is 0\.9 and task\.query 0\.2"):
        family(support=0.9).held_out("test")


def test_the_simple_recommenders_do_what_they_are_called(family):
    """Services come in a circle of six, so the last used is hardly ever the next, and naive Bayes knows the next."""
    made = family()
    clients = made.held_out("test")
    shares = {name: float(torch.stack([made.accuracy(scores(c), c.query[1]) for c in clients]).mean())
              for name, scores in made.baselines.items()}  # fmt: skip
    assert list(shares) == ["most frequently used", "most recently used", "naive Bayes"]
    assert shares["most recently used"] < 0.1 and shares["most frequently used"] < 0.5 < shares["naive Bayes"]
    for client in clients:
        counts = [Counter(client.support[1].tolist() + client.query[1][:n].tolist()) for n in range(10)]
        guesses = made.baselines["most frequently used"](client).argmax(1).tolist()
        assert all(count[guess] == max(count.values()) for count, guess in zip(counts, guesses, strict=True))
        assert made.baselines["most recently used"](client).argmax(1).tolist()[1:] == client.query[1][:-1].tolist()


def test_top_4_is_told_beside_the_accuracy(family):
    made = family()
    client: Tasks = made.held_out("validation")[0]
    scores = torch.eye(40)[client.query[1]]
    assert float(made.metrics["top 4"](scores, client.query[1])) == float(made.accuracy(scores, client.query[1])) == 1
    assert float(made.metrics["top 4"](-scores, client.query[1])) == 0


@pytest.mark.parametrize(("name", "parameters"), [("logistic", 4160), ("mlp", 9256)])
def test_the_papers_models_have_the_papers_sizes(family, name, parameters):
    words = family().model_words
    taken = {word: words[word] for word in ("inputs", "outputs", "hidden")[: 2 + (name == "mlp")]}
    model = catalog.model(name, taken)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_movielens_has_its_published_counts(real_data):
    """100836 ratings of 610 users, 20 to 2698 each; the genres counted by a plain reader of csv."""
    place = real_data("movielens-small") / "movielens-small"
    table = read(place)
    assert len(table.inputs) == 100836 and table.groups == 610
    assert (table.sizes.min(), table.sizes.max(), np.median(table.sizes)) == (20, 2698, 70.5)
    with zipfile.ZipFile(place / "ml-latest-small.zip") as archive:
        ratings, movies = (list(csv.DictReader(io.StringIO(archive.read(f"ml-latest-small/{name}.csv").decode())))
                           for name in ("ratings", "movies"))  # fmt: skip
    genre = {movie["movieId"]: movie["genres"].split("|")[0] for movie in movies}
    assert table.facts["items"] == len({genre[r["movieId"]] for r in ratings})
    for user in ("1", "414", "610"):
        own = sorted((r for r in ratings if r["userId"] == user), key=lambda r: int(r["timestamp"]))
        met: list[str] = []
        for record in own:
            met += [genre[record["movieId"]]] if genre[record["movieId"]] not in met else []
        rows = table.rows(list(table.names).index(f"user-{user}"))
        assert table.targets[rows].tolist() == [met.index(genre[record["movieId"]]) for record in own]
    assert read(place, item="movieId").facts["items"] == 9724
