"""Pictures as people have them, made by Pillow and read back by hand: modes, folders, what is refused, what is told."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difnet.data import own_images, pictures
from difnet.data.meaning import pictures_from
from difnet.errors import ConfigError, DataError, EnvironmentLacks

SIZE = 8
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (SIZE, SIZE), np.uint8)
COLOUR = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))


def put(path: Path, image: Image.Image, **words) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **words)
    return path


def pixels(path: Path, channels: int, size: int = SIZE) -> np.ndarray:
    with pictures.opened(path) as picture:
        return pictures.square(picture, size, channels, str(path))


def owner(place: Path, classes="ab", each: int = 3, image: Image.Image | None = None) -> Path:
    """A folder a class, with so many pictures, all different."""
    for c, word in enumerate(classes):
        for n in range(each):
            made = image or Image.fromarray((GREY // 2 + 10 * c + n).astype(np.uint8))
            put(place / word / f"{n}.png", made)
    return place


def schema(**words):
    return pictures_from({"size": SIZE, "channels": 1, "classes": ["a", "b"], **words})


# Pixels


def test_a_grey_and_a_coloured_png_come_back_as_they_are(tmp_path):
    assert np.array_equal(pixels(put(tmp_path / "g.png", Image.fromarray(GREY)), 1), GREY[None])
    read = pixels(put(tmp_path / "c.png", Image.fromarray(COLOUR)), 3)
    assert read.shape == (3, SIZE, SIZE) and np.array_equal(read, np.moveaxis(COLOUR, -1, 0))
    assert np.array_equal(pixels(tmp_path / "g.png", 3), np.stack([GREY] * 3))


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_become_eight_by_their_range_and_not_by_clipping(tmp_path, ending):
    """Pillow's own conversion would make every value from 255 on white."""
    deep = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    read = pixels(put(tmp_path / f"deep.{ending}", Image.fromarray(deep)), 1)
    assert abs(read[0].astype(float) - deep / 257).max() <= 0.5
    assert read.min() == 0 and read.max() == 255 and len(np.unique(read)) == SIZE * SIZE


def test_what_is_transparent_is_white_and_half_is_half(tmp_path):
    rgba = np.zeros((SIZE, SIZE, 4), np.uint8)
    rgba[:4, :, 3] = 255
    rgba[4:6, :, 3] = 128
    read = pixels(put(tmp_path / "t.png", Image.fromarray(rgba)), 3)[0]
    assert (read[:4] == 0).all() and (abs(read[4:6].astype(int) - 127) <= 1).all() and (read[6:] == 255).all()
    palette = Image.fromarray((np.arange(64).reshape(8, 8) % 2).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    read = pixels(put(tmp_path / "p.png", palette, transparency=0), 3)
    assert np.array_equal(read[:, 0, 0], [255, 255, 255]) and np.array_equal(read[:, 0, 1], [0, 0, 255])


def test_a_palette_and_cmyk_become_their_colours(tmp_path):
    palette = Image.fromarray(np.zeros((SIZE, SIZE), np.uint8), "P")
    palette.putpalette([10, 200, 30])
    assert np.array_equal(pixels(put(tmp_path / "p.gif", palette), 3)[:, 3, 3], [10, 200, 30])
    cmyk = Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0))  # red ink alone
    read = pixels(put(tmp_path / "c.jpg", cmyk, quality=100), 3)[:, 4, 4].astype(int)
    assert abs(read - [255, 0, 0]).max() <= 3


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("L", (SIZE, SIZE), grey) for grey in (40, 90, 200)]
    put(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (pixels(tmp_path / "a.gif", 1) == 40).all()


def test_a_picture_that_exif_says_lies_on_its_side_is_stood_up(tmp_path):
    """Orientation 6: the row that was at the top is the column at the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    read = pixels(put(tmp_path / "phone.png", Image.fromarray(GREY), exif=exif), 1)
    assert np.array_equal(read[0], np.rot90(GREY, -1))


def test_of_a_wide_picture_the_middle_square_is_taken(tmp_path):
    wide = np.zeros((SIZE, 3 * SIZE), np.uint8)
    wide[:, SIZE : 2 * SIZE] = 77
    assert (pixels(put(tmp_path / "wide.png", Image.fromarray(wide)), 1)[0][:, 2:-2] == 77).all()


def test_one_bit_is_black_and_white(tmp_path):
    bits = GREY > 127
    assert np.array_equal(pixels(put(tmp_path / "b.png", Image.fromarray(bits)), 1)[0], bits * 255)


def test_numbers_whose_range_nobody_knows_are_refused(tmp_path):
    path = put(tmp_path / "f.tiff", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(DataError, match=r"f.tiff holds numbers of 32 bits"):
        pixels(path, 1)


# Folders


def test_folders_of_classes_are_one_client_and_folders_of_those_are_clients(tmp_path):
    one = own_images.find(owner(tmp_path / "ash"))
    assert {name: {word: len(its) for word, its in classes.items()} for name, classes in one.clients.items()} == {
        "ash": {"a": 3, "b": 3}}  # fmt: skip
    owner(tmp_path / "all" / "oak")
    owner(tmp_path / "all" / "elm", "bc", 2)
    many = own_images.find(tmp_path / "all")
    assert {name: sorted(classes) for name, classes in many.clients.items()} == {"elm": ["b", "c"], "oak": ["a", "b"]}


def test_two_layouts_at_once_and_pictures_of_no_class_are_refused(tmp_path):
    owner(tmp_path / "x" / "oak")
    put(tmp_path / "x" / "c" / "0.png", Image.fromarray(GREY))
    with pytest.raises(DataError, match=r"x/c holds pictures, and .*x/oak folders of pictures"):
        own_images.find(tmp_path / "x")
    put(tmp_path / "y" / "0.png", Image.fromarray(GREY))
    with pytest.raises(DataError, match="1 pictures, of which nobody knows the class"):
        own_images.find(tmp_path / "y")
    with pytest.raises(EnvironmentLacks, match="no folder"):
        own_images.find(tmp_path / "z")


def test_what_systems_leave_is_passed_over_and_what_is_no_picture_is_told(tmp_path):
    place = owner(tmp_path / "ash")
    for junk in (".DS_Store", "a/._0.png", "a/Thumbs.db", "__MACOSX/a/0.png"):
        (place / junk).parent.mkdir(parents=True, exist_ok=True)
        (place / junk).write_bytes(b"junk")
    (place / "a" / "notes.txt").write_text("mine")
    assert own_images.find(place).left_out == ["a/notes.txt"]
    assert any("a/notes.txt" in line for line in own_images.read(place, schema()).cautions)


def test_classes_sizes_and_colours_follow_from_the_pictures(tmp_path):
    place = owner(tmp_path / "all" / "oak")
    owner(tmp_path / "all" / "elm", "bc")
    found = own_images.meaning_of(place.parent)
    assert found.to_dict() == {"size": 28, "channels": 1, "classes": ["a", "b", "c"]}
    put(tmp_path / "all" / "elm" / "b" / "red.png", Image.fromarray(COLOUR))
    assert own_images.meaning_of(place.parent, size=16).to_dict() == {"size": 16, "channels": 3,
                                                                      "classes": ["a", "b", "c"]}  # fmt: skip
    assert own_images.meaning_of(place.parent, ways=2).to_dict() == {"size": 28, "channels": 3, "ways": 2}


def test_all_pictures_of_all_clients_come_back_with_the_numbers_of_their_classes(tmp_path):
    owner(tmp_path / "all" / "oak")
    owner(tmp_path / "all" / "elm", "b", 2)
    own = own_images.read(tmp_path / "all", schema())
    for client, words in (("oak", "ab"), ("elm", "b")):
        paths = [path for word in words for path in sorted((tmp_path / "all" / client / word).iterdir())]
        by_hand = np.stack([np.asarray(Image.open(path)) for path in paths])
        assert np.array_equal(own.clients[client].inputs[:, 0], by_hand)
        assert [own.classes[client][c] for c in own.clients[client].targets] == [path.parent.name for path in paths]
    assert "elm has no picture of 1 of 2 classes: 'a'" in own.cautions


def test_a_class_that_the_schema_lacks_is_named_with_its_owner(tmp_path):
    owner(tmp_path / "all" / "oak")
    owner(tmp_path / "all" / "elm", "bc")
    with pytest.raises(DataError, match=r"client 'elm' has a class 'c' .*which the schema lacks: it has 'a', 'b'"):
        own_images.read(tmp_path / "all", schema())


def test_every_broken_picture_is_named_and_nothing_is_kept(tmp_path):
    place = owner(tmp_path / "ash")
    whole = (place / "a" / "0.png").read_bytes()
    (place / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    (place / "b" / "1.png").write_bytes(b"no picture")
    (place / "b" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)a/0.png.*b/1.png.*b/2.png.*Mend or remove"):
        own_images.read(place, schema())
    for name in ("a/0.png", "b/1.png", "b/2.png"):
        put(place / name, Image.fromarray(GREY))
    assert len(own_images.read(place, schema()).clients["ash"].inputs) == 6


def test_a_program_in_a_picture_is_not_run(tmp_path, monkeypatch):
    """Encapsulated PostScript is a program, which Pillow would hand to an interpreter."""
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **words: ran.append(given))
    place, content = owner(tmp_path / "ash"), io.BytesIO()
    Image.fromarray(COLOUR).save(content, "EPS")
    (place / "a" / "0.png").write_bytes(content.getvalue())
    with pytest.raises(DataError, match=r"a/0.png is no picture"):
        own_images.read(place, schema())
    assert ran == []
    with Image.open(io.BytesIO(content.getvalue())) as picture, suppress(AssertionError):
        picture.load()
    assert len(ran) == 1, "Pillow itself would have run it"


def test_what_may_surprise_is_counted_by_client(tmp_path):
    place = owner(tmp_path / "ash")
    frames = [Image.new("L", (SIZE, SIZE), grey) for grey in (40, 90)]
    put(place / "a" / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    put(place / "a" / "long.png", Image.fromarray(np.tile(GREY, 3)))
    put(place / "b" / "deep.png", Image.fromarray(GREY.astype(np.uint16) * 16))
    put(place / "b" / "again.png", Image.open(place / "a" / "0.png"))
    told = "\n".join(own_images.read(place, schema()).cautions)
    for said in ("have several frames", "are twice as long as wide", "of 16 bits are dark throughout",
                 "look like another one"):  # fmt: skip
        assert f"ash: 1 of 10 pictures {said}" in told


def test_pictures_are_kept_once_and_read_anew_when_one_is_added(tmp_path):
    place = owner(tmp_path / "ash")
    first = own_images.read(place, schema()).clients["ash"].inputs
    again = own_images.read(place, schema()).clients["ash"].inputs
    assert isinstance(first.base, np.memmap) or isinstance(first.base.base, np.memmap)
    assert np.array_equal(first, again) and not again.flags.writeable
    put(place / "a" / "new.png", Image.fromarray(GREY))
    assert len(own_images.read(place, schema()).clients["ash"].inputs) == 7


@pytest.mark.parametrize(("words", "said"), [
    ({"size": 2}, "size is 2; it must be from 4"), ({"channels": 4}, "channels is 4"),
    ({"classes": ["a"]}, "2 classes or more"), ({"classes": ["a", "a"]}, "none twice"),
    ({"ways": 5}, "both ways and classes"), ({"ways": 1, "classes": None}, "ways is 1"),
    ({"sise": 4}, "did you mean 'size'"),
], ids=str)  # fmt: skip
def test_a_schema_that_means_nothing_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        schema(**words)
