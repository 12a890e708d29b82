"""Files that come from a server, whole or not at all: a real one on this machine, which can be told to misbehave."""

import fcntl
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from difnet.data.checks import PART, WHOLE, check, look
from difnet.data.fetch import fetch, forms, known
from difnet.data.sources import SOURCES, Archive, File, Source, source
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from difnet.system.progress import progress_to
from tests.data.serving import Server, serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as told:
        yield told


def one_file(*addresses: str, **words: object) -> Source:
    file = File(**({"name": "x.bin", "sums": (SUM,), "addresses": addresses, "size": len(CONTENT)} | words))
    return Source("x", "Something", (), "somebody", "MIT", (file,))


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_file_comes_whole_with_its_progress_told(server, tmp_path):
    server.serves["x.bin"] = CONTENT
    heard: list[tuple[str, int, int | None]] = []
    with progress_to(lambda *words: heard.append(words)):
        came = fetch(one_file(f"{server.address}/x.bin"), tmp_path / "new" / "x")
    assert came == [tmp_path / "new" / "x" / "x.bin"] and came[0].read_bytes() == CONTENT
    assert left(came[0].parent) == ["x.bin"]
    assert ("fetching x.bin", len(CONTENT), len(CONTENT)) in heard


def test_what_is_there_and_whole_is_not_asked_for(server, tmp_path):
    (tmp_path / "x.bin").write_bytes(CONTENT)
    assert fetch(one_file(f"{server.address}/x.bin"), tmp_path) == [] and server.asked == []


def test_an_unpacked_form_is_left_as_it_is(server, tmp_path):
    (tmp_path / "x").mkdir()
    assert fetch(one_file(f"{server.address}/x.bin", other=("x",)), tmp_path) == [] and server.asked == []


def test_a_damaged_file_is_replaced_when_the_new_one_is_whole_and_kept_aside(server, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"damaged")
    with pytest.raises(EnvironmentLacks):
        fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"damaged"
    server.serves["x.bin"] = CONTENT
    fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and (tmp_path / "x.bin.old").read_bytes() == b"damaged"


def test_a_server_that_breaks_off_is_asked_for_the_rest(server, tmp_path):
    server.serves["x.bin"], server.breaks_after["x.bin"] = CONTENT, 400_000
    [path] = fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [("x.bin", None), ("x.bin", "bytes=400000-"), ("x.bin", "bytes=800000-")]


def test_an_interrupted_command_goes_on_from_what_it_has(server, tmp_path):
    """Three times: a server that gives up too often, one that is gone, and one that gives the rest."""
    server.serves["x.bin"], server.breaks_after["x.bin"] = CONTENT, 100_000
    with pytest.raises(EnvironmentLacks, match=r"500000 bytes of it are kept in .*x\.bin\.part.*goes on from there"):
        fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert left(tmp_path) == ["x.bin.part"]
    with pytest.raises(EnvironmentLacks, match="404"):
        fetch(one_file(f"{server.address}/gone"), tmp_path)
    assert (tmp_path / "x.bin.part").read_bytes() == CONTENT[:500_000]
    server.asked.clear()
    server.breaks_after.clear()
    [path] = fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert path.read_bytes() == CONTENT and server.asked == [("x.bin", "bytes=500000-")]


def test_a_server_without_ranges_sends_all_of_it_again(server, tmp_path):
    server.serves["x.bin"] = CONTENT
    server.ignores_ranges.add("x.bin")
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:300_000])
    [path] = fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert path.read_bytes() == CONTENT and server.asked == [("x.bin", "bytes=300000-")]


@pytest.mark.parametrize("begun", [b"of another file", CONTENT + b"!", b"!" + CONTENT[1:]],
                         ids=["start", "more", "all"])  # fmt: skip
def test_a_beginning_that_does_not_belong_to_the_rest_is_fetched_anew(server, tmp_path, begun):
    server.serves["x.bin"] = CONTENT
    (tmp_path / "x.bin.part").write_bytes(begun)
    [path] = fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert path.read_bytes() == CONTENT and left(tmp_path) == ["x.bin"]


def test_other_content_is_thrown_away_and_the_next_address_is_tried(server, tmp_path):
    server.serves |= {"wrong": b"<!DOCTYPE html> moved", "x.bin": CONTENT}
    [path] = fetch(one_file(*(f"{server.address}/{name}" for name in ("nothing", "wrong", "x.bin"))), tmp_path)
    assert path.read_bytes() == CONTENT and [name for name, _ in server.asked] == ["nothing", "wrong", "x.bin"]


def test_other_content_everywhere_is_an_error_that_shows_what_came_and_leaves_nothing(server, tmp_path):
    server.serves |= {"wrong": b"<!DOCTYPE html> moved", "long": CONTENT + b"more"}
    with pytest.raises(EnvironmentLacks) as refused:
        fetch(one_file(f"{server.address}/wrong", f"{server.address}/long"), tmp_path)
    for said in ("/wrong: another file", "21 bytes", "DOCTYPE", "/long: more than the 1048576 bytes", str(tmp_path)):
        assert said in str(refused.value)
    assert left(tmp_path) == []


def test_a_server_that_is_silent_is_left_after_the_deadline(server, tmp_path):
    server.serves["x.bin"] = CONTENT
    server.hangs.add("slow")
    [path] = fetch(one_file(f"{server.address}/slow", f"{server.address}/x.bin"), tmp_path, deadline_s=0.2)
    assert path.read_bytes() == CONTENT
    with pytest.raises(EnvironmentLacks, match=r"silent for 0\.2 s"):
        fetch(one_file(f"{server.address}/slow", name="y.bin"), tmp_path, deadline_s=0.2)


def test_a_server_that_falls_silent_in_the_middle_is_left_with_what_it_gave(server, tmp_path):
    server.serves["slow"], server.breaks_after["slow"] = CONTENT, 200_000
    server.falls_silent.add("slow")
    with pytest.raises(EnvironmentLacks, match=r"silent for 0\.2 s|broke off"):
        fetch(one_file(f"{server.address}/slow"), tmp_path, deadline_s=0.2)
    kept = (tmp_path / "x.bin.part").read_bytes()
    assert len(kept) >= 200_000 and CONTENT.startswith(kept)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.bin", "http://no-such-host.invalid/x.bin"])
def test_without_a_network_it_is_said_where_to_put_the_file(tmp_path, address):
    with pytest.raises(EnvironmentLacks, match="is there a network\\? You can fetch it elsewhere"):
        fetch(one_file(address), tmp_path, deadline_s=5)
    assert left(tmp_path) == []


def test_a_full_disk_is_one_clear_error_and_leaves_no_file_of_that_name(server, tmp_path):
    """The unfinished file is a device that is always full."""
    server.serves["x.bin"] = CONTENT
    (tmp_path / "x.bin.part").symlink_to("/dev/full")
    with pytest.raises(EnvironmentLacks, match=r"No space left on device.*Make room"):
        fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert left(tmp_path) == ["x.bin.part"]


def test_a_file_that_cannot_fit_is_not_begun(server, tmp_path, monkeypatch):
    server.serves["x.bin"] = CONTENT
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("difnet.data.fetch.shutil.disk_usage", lambda place: free)
    with pytest.raises(EnvironmentLacks, match="1048576 bytes are to come, and 1000 are free"):
        fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to the superuser")
def test_a_folder_that_may_not_be_written_is_one_clear_error(server, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentLacks, match="cannot write into"):
        fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    tmp_path.chmod(0o700)


def test_two_commands_do_not_write_into_one_file(server, tmp_path):
    server.serves["x.bin"] = CONTENT
    with open(tmp_path / "x.bin.part", "a+b") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentLacks, match="another command"):
            fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert server.asked == []
    fetch(one_file(f"{server.address}/x.bin"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def zipped(**members: bytes) -> bytes:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.txt", content)
        return buffer.getvalue()


def of_an_archive(archive: Archive, *members: str) -> Source:
    files = tuple(File(f"{name}-of-ours.txt", archive=archive, member=f"{name}.txt") for name in members)
    return Source("x", "Something", (), "somebody", "MIT", files)


def test_members_of_a_zip_get_their_names_and_the_zip_goes(server, tmp_path):
    server.serves["all.zip"] = zipped(a=b"first", b=b"second", c=b"unwanted")
    there = of_an_archive(Archive("all.zip", (f"{server.address}/all.zip",)), "a", "b")
    came = fetch(there, tmp_path)
    assert [path.read_bytes() for path in came] == [b"first", b"second"]
    assert left(tmp_path) == ["a-of-ours.txt", "b-of-ours.txt"] and len(server.asked) == 1
    assert fetch(there, tmp_path) == [] and len(server.asked) == 1


def test_a_zip_that_was_fetched_by_hand_is_unpacked_and_left_there(server, tmp_path):
    (tmp_path / "all.zip").write_bytes(content := zipped(a=b"first"))
    total = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for sums in ((), (total,)):
        (tmp_path / "a-of-ours.txt").unlink(missing_ok=True)
        fetch(of_an_archive(Archive("all.zip", (f"{server.address}/all.zip",), sums=sums), "a"), tmp_path)
        assert left(tmp_path) == ["a-of-ours.txt", "all.zip"] and server.asked == []


@pytest.mark.parametrize("broken", ["cut", "garbled", "lacking", "page"])
def test_a_zip_that_is_damaged_is_kept_aside_and_gives_no_file(server, tmp_path, broken):
    whole = zipped(a=b"first" * 1000, b=b"second")
    at = whole.index(b"firstfirst") + 5
    server.serves["all.zip"] = {"cut": whole[:-30], "garbled": whole[:at] + b"F" + whole[at + 1 :],
                                "lacking": zipped(b=b"second"), "page": b"<html>moved</html>"}[broken]  # fmt: skip
    with pytest.raises(DataError, match=r"all\.zip"):
        fetch(of_an_archive(Archive("all.zip", (f"{server.address}/all.zip",)), "a"), tmp_path)
    assert left(tmp_path) == ["all.zip.wrong"]


def test_without_a_checksum_nothing_is_resumed(server, tmp_path):
    """Nothing would tell whether the halves belong together."""
    server.serves["x.bin"] = CONTENT
    (tmp_path / "x.bin.part").write_bytes(b"!" * 1000)
    [path] = fetch(one_file(f"{server.address}/x.bin", sums=(), size=None), tmp_path)
    assert path.read_bytes() == CONTENT and server.asked == [("x.bin", None)]


def test_a_checksum_of_either_kind_is_known(tmp_path):
    """The empty file's, as RFC 1321 and FIPS 180 print them."""
    (tmp_path / "empty").touch()
    assert known(tmp_path / "empty", ("md5:d41d8cd98f00b204e9800998ecf8427e",))
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert known(tmp_path / "empty", ("md5:0", f"sha256:{empty}"))
    assert not known(tmp_path / "empty", ("md5:0", "sha256:0")) and not known(tmp_path / "empty", ())


def test_every_source_says_whose_it_is_and_how_to_get_it():
    """Checksums have their length; a file without an address is explained; addresses are https, or have no other."""
    lengths = {"sha256": 64, "md5": 32}
    for name, known_set in SOURCES.items():
        assert known_set.name == name and known_set.title and known_set.owner and known_set.licence
        assert known_set.reader and known_set.families and known_set.files
        for file in known_set.files:
            assert file.addresses or file.archive or known_set.how, file.name
            for total in (*file.sums, *file.parts, *(file.archive.sums if file.archive else ())):
                kind, _, digits = total.partition(":")
                assert len(digits) == lengths[kind] and int(digits, 16)
            for address in (*file.addresses, *(file.archive.addresses if file.archive else ())):
                assert address.startswith(("https://", "http://"))
    with pytest.raises(ConfigError, match="did you mean 'omniglot'"):
        source("omniglott")


@pytest.mark.parametrize("name", SOURCES)
def test_the_files_of_a_real_set_have_checksums_that_are_known(name, real_data):
    seen = look(SOURCES[name], real_data(name))
    assert seen.good and seen.state in (WHOLE, PART), seen


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_real_set_reads_with_the_counts_of_its_owner(name, real_data):
    found = check(SOURCES[name], real_data(name))
    assert found.good and found.found and not found.why, found


def test_other_forms_are_found_in_their_order(tmp_path):
    file = File("x.csv", other=("*.csv", "*.csv.gz"))

    def find() -> list[str]:
        return [path.name for path in forms(tmp_path, file)]

    assert find() == []
    (tmp_path / "b.csv.gz").touch()
    assert find() == ["b.csv.gz"]
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).touch()
    assert find() == ["a.csv", "b.csv"]
    (tmp_path / "x.csv").touch()
    assert find() == ["x.csv"]
