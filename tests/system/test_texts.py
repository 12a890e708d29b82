"""Text as other programs leave it: Python's own codecs are the oracle."""

import pytest

from difnet.config import load, read_toml
from difnet.errors import ConfigError
from difnet.record.files import TaskScore, read_config, read_json, read_scores
from difnet.system.texts import NotText, decoded, read_text

TEXT = "größe = 1\nname = 'Zürich'\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_is_the_same_in_every_encoding_with_every_end_of_lines(tmp_path, encoding, end):
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXT


def test_both_orders_of_bytes_are_told_by_their_marks():
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert decoded(("\ufeff" + TEXT).encode(encoding)) == TEXT


@pytest.mark.parametrize(("content", "said"), [
    (TEXT.encode("latin-1"), "line 1 holds the byte 0xf6, which is no UTF-8"),
    (b"a\nb\n\xff", "line 3 holds the byte 0xff"), ("ab".encode("utf-16-le"), "UTF-16 without a byte-order mark"),
    ("ab".encode("utf-16")[:-1], "which is no UTF-16"), (b"\x00\x01\x02\x03", "it is no text"),
])  # fmt: skip
def test_what_is_no_such_text_is_refused_with_its_place_and_a_remedy(content, said):
    with pytest.raises(NotText, match=f"{said}.*save it as UTF-8"):
        decoded(content)


def test_nothing_is_a_text():
    assert decoded(b"") == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_a_run_may_have_been_saved_by_an_editor(tmp_path, encoding):
    """A configuration given, and what a run's folder holds."""
    (tmp_path / "config.toml").write_bytes('seed = 7\r\ntopology = "ring6"\r\n'.encode(encoding))
    (tmp_path / "run.json").write_bytes('{"run": "a"}'.encode(encoding))
    (tmp_path / "test.csv").write_bytes("model,task,samples,steps,loss,accuracy\r\nw,a,3,1,0.5,\r\n".encode(encoding))
    assert load(tmp_path / "config.toml").seed == read_config(tmp_path / "config.toml")["seed"] == 7
    assert read_json(tmp_path / "run.json") == {"run": "a"}
    (score,) = read_scores(tmp_path / "test.csv")
    assert score[:5] == TaskScore("w", "a", 3, "1", 0.5, 0.0)[:5]


def test_a_configuration_of_another_encoding_is_refused_by_line(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"seed = 7\nname = '\xfc'\n")
    with pytest.raises(ConfigError, match=r"config\.toml is not valid TOML: line 2 holds the byte 0xfc"):
        read_toml(tmp_path / "config.toml")
