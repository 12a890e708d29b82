"""Which data sets does difnet know, who owns them, where do they come from, and what is known to be whole?

Checksums are those that owners, torchvision or TensorFlow Datasets publish, or of files that were counted and compared
with what was published. None of this data belongs to difnet, and none comes with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difnet.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Archive:
    """A zip that an owner publishes, of which only some members are kept."""

    name: str
    addresses: tuple[str, ...]  # the owners', to be tried in turn
    size: int | None = None  # bytes
    sums: tuple[str, ...] = ()  # "sha256:…" or "md5:…"; without any, the zip's own checksums must do


@dataclass(frozen=True)
class File:
    """One file of a data set."""

    name: str
    sums: tuple[str, ...] = ()  # "sha256:…" or "md5:…", of every version known to be whole, in whatever form
    addresses: tuple[str, ...] = ()  # the owners', to be tried in turn
    size: int | None = None  # bytes, of what comes from there
    parts: tuple[str, ...] = ()  # checksums as `sums`, of versions that are known to be cut down
    other: tuple[str, ...] = ()  # the same content in another form, such as unpacked; * stands for anything
    archive: Archive | None = None  # where it comes from, if not by itself,
    member: str = ""  # and its name there
    needed: bool = True


@dataclass(frozen=True)
class Count:
    """What a reader must find: groups (clients or classes) and samples in them."""

    groups: int
    samples: int
    note: str = ""  # which version this is; "" for the whole as published


@dataclass(frozen=True)
class Reading:
    """One way to read a set, with what may come out."""

    options: Mapping[str, Any]
    counts: tuple[Count, ...]


@dataclass(frozen=True)
class Source:
    """One data set, which lies in a folder of its name."""

    name: str
    title: str
    families: tuple[str, ...]  # task families that read it
    owner: str
    licence: str
    files: tuple[File, ...]
    reader: str = ""  # the module of difnet.data
    readings: tuple[Reading, ...] = ()
    how: str = ""  # to get what has no address
    others: tuple[str, ...] = ()  # names that others give its folder


def _sha(*sums: str) -> tuple[str, ...]:
    return tuple(f"sha256:{s}" for s in sums)


def forms(place: Path, file: File) -> list[Path]:
    """The file as it lies there: under its name, else in other forms."""
    if (place / file.name).exists():
        return [place / file.name]
    return next(filter(None, ([p for p in sorted(place.glob(o)) if p.suffix != ".part"] for o in file.other)), [])


_LEAF_FOLDERS = ("", "all_data/", "data/all_data/")  # where LEAF's scripts leave their JSON
_LEAF = tuple(
    f"{folder}*.json{packed}" for folder in (*(f"{f}*all_data" for f in _LEAF_FOLDERS), "train/", "data/train/")
    for packed in ("", ".gz")
)  # fmt: skip
RAW = ("", "raw/", "MNIST/raw/")  # where MNIST's files lie: torchvision leaves them in the latter two, also unpacked


def _packed_or_not(name: str) -> tuple[str, ...]:
    """An idx file's other places and forms."""
    return tuple(f"{folder}{name}{packed}" for folder in RAW for packed in (".gz", ""))[1:]


def _mnist(name: str, size: int, sha256: str, md5: str) -> File:
    # torchvision/datasets/mnist.py has the md5 sums, and this mirror beside Yann LeCun's own page, which is closed
    address = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"
    return File(f"{name}.gz", (f"sha256:{sha256}", f"md5:{md5}"), (address,), size, other=_packed_or_not(name))


def _qmnist(name: str, size: int, sha256: str, md5: str) -> File:
    address = f"https://raw.githubusercontent.com/facebookresearch/qmnist/master/{name}.gz"
    sums = f"sha256:{sha256}", f"md5:{md5}"
    return File(f"{name}.gz", sums, (address,), size, other=_packed_or_not(name), needed=False)


MNIST = Source(
    "mnist", "MNIST digits, with their writers from QMNIST", ("mnist",),
    "Y. LeCun, C. Cortes, C. Burges; writers: C. Yadav, L. Bottou, Facebook Research",
    "digits CC BY-SA 3.0; table of writers BSD-3-Clause",
    (
        _mnist("train-images-idx3-ubyte", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
               "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _mnist("train-labels-idx1-ubyte", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
               "d53e105ee54ea40749a09fcbcd1e9432"),
        _mnist("t10k-images-idx3-ubyte", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
               "9fb629c4189551a2d022fa330f9573f3"),
        _mnist("t10k-labels-idx1-ubyte", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
               "ec29112dd5afa0611ce80d1b7f02629c"),
        _qmnist("qmnist-train-labels-idx2-int", 463024,
                "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f", "0058f8dd561b90ffdd0f734c6a30e5e4"),
        _qmnist("qmnist-test-labels-idx2-int", 526800,
                "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06", "5b5b05890a5e13444e108efe57b788aa"),
    ),
    "mnist",
    tuple(Reading({"part": part}, (Count(writers, digits), Count(1, digits, "without the table of writers")))
          for part, writers, digits in (("train", 539, 60000), ("test", 297, 10000))),
    others=("MNIST",),
)  # fmt: skip

_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
OMNIGLOT = Source(
    "omniglot", "Omniglot, 1623 characters of 50 alphabets, drawn by 20 people", ("omniglot",),
    "B. Lake, R. Salakhutdinov, J. Tenenbaum", "MIT",
    (
        File("images_background.zip", (
            "md5:68d2efa1b9178cc56df9314c21c6e718",  # the owners', as torchvision/datasets/omniglot.py has it
            "sha256:593c2305f36c3a2d123806e47de9ae6ad16e1e36ea05539b2e219880ab3415b1",  # the same drawings, zipped anew
        ), (f"{_OMNIGLOT}images_background.zip",), other=("images_background",)),
        File("images_evaluation.zip", (
            "md5:6b91aef0f799c5bb55b94e3f2daec811",
            "sha256:e7361480899552d755fe5672d99cece31b9e14113c2af54f90951a3d5d79dcbc",
        ), (f"{_OMNIGLOT}images_evaluation.zip",), other=("images_evaluation",)),
    ),
    "omniglot", (Reading({}, (Count(1623, 32460),)),), others=("omniglot-py", "Omniglot"),
)  # fmt: skip

_RAVI = "https://raw.githubusercontent.com/twitter-research/meta-learning-lstm/master/data/miniImagenet/"
_WHOLE, _PART = "", "the first 200 of 600 pictures of every class"


def _split(name: str, size: int, whole: str, part: str) -> File:
    return File(f"{name}.csv", _sha(whole), (f"{_RAVI}{name}.csv",), size, _sha(part), (f"{name}.csv.gz",))


def _part(name: str, sha256: str) -> File:
    # one of the three zips of a subset, each beside what would do in its place
    return File(f"images-{name}.zip", parts=_sha(sha256), other=("images.zip", "images"))


MINIIMAGENET = Source(
    "miniimagenet", "MiniImagenet, 100 classes of 84 x 84 pictures", ("miniimagenet",),
    "splits: S. Ravi, H. Larochelle; pictures: ImageNet (ILSVRC 2012) and their photographers",
    "non-commercial research and education (ImageNet's terms); the splits MIT",
    (
        _split("train", 1228815, "498519cd8e49ce97ed26a4a3638966698ae41ab35e9c68538319fc9b46ba7d2f",
               "acbf06faac55dc21fc5bfa718faad7a689fb6ccc98e4543b4306fd75f4e77b2f"),
        _split("val", 307215, "5658a59921ca027ee76af92949869c5d6f41d77592ff3b18db325a9d10c893b9",
               "fa49d856bf7a6994ed097316a7cfb8fe9e43f808abe2b0ce30837fb8f20ae307"),
        _split("test", 384015, "2b7cfa78342995761a572a8158e539bc4e0a80f9bbd7d00c1e17a460fbbb93fa",
               "42a7f37ec3137ca2c55990812e34fc7f1724023cac368b75962b4a9a5956503f"),
        _part("train", "9ac9a0a742fbf618ec25e6ef1010fb8716c4b76f5be928337ea9a854955d6967"),
        _part("val", "5b3ffceeb1793cda1f83863cd01cc6b4a908f1c7b9991c076c3294f61386ab66"),
        _part("test", "0c3ac23acf30c43b6d347dc3167a6fa56251868c01d5d75460cc2e2b558e295e"),
    ),
    "miniimagenet", (Reading({}, (Count(100, 60000, _WHOLE), Count(100, 20000, _PART))),),
    how="the pictures have no public address. With an account at image-net.org, take ILSVRC 2012's training pictures "
        "that the three csv files name, scale them to 84 x 84, and put them as images/NAME.jpg beside the csv files",
    others=("mini-imagenet", "mini_imagenet", "miniImagenet", "miniImageNet"),
)  # fmt: skip

_GUTENBERG = Archive("1994-01-100.zip", (  # as LEAF's get_data.sh had it; Project Gutenberg has moved it since
    "https://www.gutenberg.org/files/100/old/1994-01-100.zip",
    "https://www.gutenberg.org/files/100/old/old/1994-01-100.zip",
))  # fmt: skip
SHAKESPEARE = Source(
    "shakespeare", "The Complete Works of Shakespeare, by speaking role, as LEAF has them", ("shakespeare",),
    "Project Gutenberg's 100th etext (1994); its roles as clients: LEAF",
    "plays in the public domain; this edition for personal, non-commercial use",
    (
        File("shakespeare.txt", (
            "md5:d2028225a89d8b0b3093dddb720da91f",
            "sha256:c5601d266987ac885ca96522b1b4e439feb7eca39f0fe1111f7342b63b6468f3",
            "sha256:2277de5933fd43a5c42bc4fe39e16aaea8cd1854277dcd0751910d9292f92f68",  # the same, gzipped
        ), other=("shakespeare.txt.gz", *_LEAF), archive=_GUTENBERG, member="100.txt"),
    ),
    "shakespeare", (Reading({}, (Count(1130, 4226206),)),),
)  # fmt: skip

_STANFORD = Archive("trainingandtestdata.zip", (
    "https://cs.stanford.edu/people/alecmgo/trainingandtestdata.zip",
    "http://cs.stanford.edu/people/alecmgo/trainingandtestdata.zip",
), 81363704, _sha("004a3772c8a7ff9bbfeb875880f47f0679d93fc63e5cf9cff72d54a8a6162e57"))  # fmt: skip
_TWEETS, _TEST_TWEETS = "training.1600000.processed.noemoticon.csv", "testdata.manual.2009.06.14.csv"
SENT140 = Source(
    "sent140", "Sentiment140, tweets by user", ("sent140",),
    "A. Go, R. Bhayani, L. Huang (Stanford); each tweet its author's",
    "none stated; tweets fall under Twitter's terms",
    (
        File(_TWEETS, parts=_sha("3344b068ec34d12f4b77cf0c3a1f19d095374d8e2bcfe4f5eccc932319335f94"),
             other=("training*.csv", "training*.csv.gz", *_LEAF), archive=_STANFORD, member=_TWEETS),
        File(_TEST_TWEETS, _sha("c77669cc86ae85d3807d65fc13fed0c395266db518d4eaa0ff1f19bf6efbbdd3"), needed=False,
             archive=_STANFORD, member=_TEST_TWEETS),
    ),
    "sent140", (Reading({}, (Count(660120, 1600000), Count(18105, 20000, "a subset of 20000 tweets"))),),
)  # fmt: skip

MOVIELENS = Source(
    "movielens-small", "MovieLens ml-latest-small (2018), ratings by user", ("recommendation",),
    "GroupLens, University of Minnesota", "research use with acknowledgement; no commercial use without permission",
    (
        File("ml-latest-small.zip", _sha(
            "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",  # the owners', by TensorFlow Datasets
            "dc5b95eb79070ae59bcb979c4460a10ef0d9ec0b6e0d981ac07b5875b6f09a09",  # the same files, zipped anew
        ), ("https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",), 978202,
             other=("ratings.csv", "ml-latest-small")),
    ),
    "ratings", (Reading({}, (Count(610, 100836),)),), others=("ml-latest-small",),
)  # fmt: skip

LANDMINE = Source(
    "landmine", "Landmine detection, 29 small binary tasks", ("landmine",), "L. Carin, Duke University", "none stated",
    (
        File("LandmineData.mat", _sha("2163ab20a80e33a8b65593c48cf283c540599dcb291105e63fa4af2ce24c2bea"),
             archive=Archive("LandmineData.zip", ("http://www.ee.duke.edu/~lcarin/LandmineData.zip",)),
             member="LandmineData.mat"),
    ),
    "landmine", (Reading({}, (Count(29, 14820),)),),
)  # fmt: skip

FEMNIST = Source(
    "femnist", "FEMNIST, characters by writer, as LEAF has them", ("femnist",),
    "NIST Special Database 19; its writers as clients: LEAF", "NIST's terms; LEAF's scripts BSD-2-Clause",
    (File("all_data_0.json", other=_LEAF),),
    "leaf", (Reading({}, ()),),
    how="run `./preprocess.sh -s niid --sf 1.0 -k 0 -t sample` in data/femnist of github.com/TalwalkarLab/leaf, and "
        "put the files of its data/all_data into this set's folder",
)  # fmt: skip

SOURCES = {s.name: s for s in (MNIST, OMNIGLOT, MINIIMAGENET, FEMNIST, SHAKESPEARE, SENT140, MOVIELENS, LANDMINE)}


def source(name: str) -> Source:
    """The data set of that name.

    Raises: ConfigError, if there is none.

    >>> source("omniglot").licence
    'MIT'
    """
    if name not in SOURCES:
        raise ConfigError(f"no data set called {name!r}{did_you_mean(name, SOURCES) or '.'} "
                          f"Known: {', '.join(SOURCES)}.")  # fmt: skip
    return SOURCES[name]
