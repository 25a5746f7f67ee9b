"""Folders of images: classes by folder, sizes that are alike or made so, damaged files."""

import numpy as np
import pytest
from PIL import Image

from funcprop.data import DataError, open, stream


def draw(path, seed=0, mode="RGB", size=(6, 4)):
    path.parent.mkdir(exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    Image.fromarray(pixels, mode).save(path) if False else Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for k in range(3):
        draw(tmp_path / "dog" / f"{k}.png", k)
        draw(tmp_path / "cat" / f"{k}.PNG", 10 + k)
    (tmp_path / "cat" / ".hidden").write_text("")
    return tmp_path


def test_classes_are_folders_by_alphabet(folder):
    source = open(f"images:{folder}")
    assert (source.labels, source.classes, len(source)) == (("cat", "dog"), 2, 6)
    x, y = source.read(np.array([4, 0]))
    assert x.dtype == np.uint8 and y.dtype == np.int32 and y.tolist() == [1, 0]
    again = draw(folder / "dog" / "1.png", 1)
    np.testing.assert_array_equal(x[0], again)
    batches = stream(source, 3, epochs=1)
    assert [x.shape for x, _ in batches] == [(3, 4, 6, 3)] * 2


def test_sizes_and_channels_can_be_made_alike(folder):
    draw(folder / "dog" / "wide.png", 3, "L", (30, 9))
    source = open(f"images:{folder}?size=4,5&channels=1")
    assert source.read(np.arange(7))[0].shape == (7, 4, 5, 1)
    assert open(f"images:{folder}", size=8, channels=3)[6][0].shape == (8, 8, 3)
    solid = np.full((20, 10, 3), 7, np.uint8)
    Image.fromarray(solid).save(folder / "dog" / "0.png")
    np.testing.assert_array_equal(open(f"images:{folder}?size=4")[3][0], solid[:4, :4])


def test_a_fingerprint_is_of_names_and_sizes(folder):
    one = open(f"images:{folder}").fingerprint
    assert one == open(f"images:{folder}/").fingerprint
    assert one != open(f"images:{folder}?channels=3").fingerprint
    draw(folder / "dog" / "9.png")
    assert one != open(f"images:{folder}").fingerprint


def test_a_photograph_held_sideways_stands_upright(tmp_path):
    (tmp_path / "a").mkdir()
    photo = Image.fromarray(np.full((8, 16, 3), 90, np.uint8))
    exif = photo.getexif()
    exif[0x0112] = 6  # turn by 90° to the right
    photo.save(tmp_path / "a" / "0.jpg", exif=exif)
    assert open(f"images:{tmp_path}")[0][0].shape == (16, 8, 3)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: draw(f / "dog" / "2.png", 0, "RGB", (5, 4)),
            r"2.png is \[4, 5, 3\].*size='4,6'",
        ),
        (lambda f: draw(f / "dog" / "2.png", 0, "L"), r"is \[4, 6, 1\].*channels=3"),
        (lambda f: draw(f / "dog" / "2.png", 0, "RGBA"), "of mode RGBA, wanted gray or RGB"),
        (lambda f: truncate(f / "dog" / "2.png"), r"2.png cannot be read as an image"),
        (lambda f: (f / "dog" / "2.png").write_text("no"), "UnidentifiedImageError"),
        (lambda f: (f / "dog" / "2.png").unlink(), "FileNotFoundError"),
        (
            lambda f: Image.fromarray(np.zeros((4, 6), np.uint16)).save(f / "dog" / "2.png"),
            "of mode I;16, wanted 8 bits a channel",
        ),
    ],
)
def test_an_image_unlike_the_others_is_named_when_it_is_read(folder, spoil, words):
    source = open(f"images:{folder}")
    spoil(folder)
    with pytest.raises(DataError, match=words):
        source.read(np.arange(6))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "notes.txt").write_text(""), "notes.txt stands beside the classes"),
        (lambda f: (f / "cat" / "a.txt").write_text(""), "cat/a.txt is no image, wanted DIR/class"),
        (lambda f: (f / "cat" / "more").mkdir(), "cat/more is no image"),
        (lambda f: (f / "empty").mkdir(), "the class empty has no images"),
    ],
)
def test_folders_of_another_form(folder, spoil, words):
    spoil(folder)
    with pytest.raises(DataError, match=words):
        open(f"images:{folder}")


def test_options_and_paths(folder, tmp_path_factory):
    for name, words in {
        f"images:{folder}/cat/0.PNG": "is no folder",
        f"images:{folder}/cow": "does not exist",
        f"images:{tmp_path_factory.mktemp('none')}": "is empty",
        f"images:{folder}?size=big": "size is 'big', wanted a number or 'H,W'",
        f"images:{folder}?size=1,2,3": "size is '1,2,3'",
        f"images:{folder}?channels=2": "channels is 2, wanted 1, 3",
        f"images:{folder}?size=0": "size is 0",
    }.items():
        with pytest.raises(DataError, match=words):
            open(name)
