import numpy as np
import pytest
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.data.single import read_image, reading_rule
from medmerge_hf.errors import DataError


def saved(folder, array, name="a.png"):
    Image.fromarray(array).save(folder / name)
    return folder / name


@pytest.fixture
def noise():
    return np.random.default_rng(0)


def folder_of(tmp_path, write):
    """An image folder of two classes whose images `write(place, name)` writes."""
    for split in ("train", "validation", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                write(tmp_path / split / name, number)
    return tmp_path


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "P", "LA", "I;16"])
def test_one_file_is_read_as_the_data_set_was(tmp_path, noise, kind):
    def write(place, number):
        if kind == "I;16":
            saved(place, noise.integers(0, 4000, (9, 7), dtype=np.uint16), f"{number}.png")
        else:
            colours = Image.fromarray(noise.integers(0, 256, (9, 7, 3), dtype=np.uint8))
            colours.convert(kind).save(place / f"{number}.png")

    target = load_target(str(folder_of(tmp_path, write)))
    rule = reading_rule(target.pixel_rule)
    expected = {np.asarray(row["image"]).tobytes() for row in target["train"]}
    files = (tmp_path / "train").rglob("*.png")
    assert {np.asarray(read_image(file, rule)).tobytes() for file in files} == expected


def test_dicom_is_windowed_as_the_data_set_was(tmp_path, noise):
    pytest.importorskip("pydicom")
    from dicom_files import write_dicom

    def write(place, number):
        write_dicom(place / f"{number}.dcm", noise.integers(0, 4000, (9, 7), dtype=np.uint16))

    folder_of(tmp_path, write)
    for window in (None, [1000, 1500]):  # without one, the lowest and highest value of all files
        target = load_target(str(tmp_path), dicom_window=window)
        rule = reading_rule(target.pixel_rule)
        expected = {np.asarray(row["image"]).tobytes() for row in target["test"]}
        files = (tmp_path / "test").rglob("*.dcm")
        assert {np.asarray(read_image(file, rule)).tobytes() for file in files} == expected


def test_photographs_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", reading_rule(None)).size == (4, 8)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"no image", "neither an image nor DICOM"),
        ("a.dcm", b"no image", "a.dcm is no DICOM"),
        ("a", b"\0" * 128 + b"DICM" + b"\0" * 9, "^a "),
    ],
)
def test_what_is_broken_is_told_in_a_sentence_without_its_folder(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_image(tmp_path / name, reading_rule(None))
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_deep_values_need_a_rule_and_stay_in_it(tmp_path):
    file = saved(tmp_path, np.array([[0, 5000]], dtype=np.uint16))
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(file, reading_rule(None))
    with pytest.raises(DataError, match="from 0 to 5000; in the training images 0 was black and 4095 white"):
        read_image(file, reading_rule({"black": 0, "white": 4095, "deep_images": 4}))


def test_several_frames_and_missing_files_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="has 2 frames"):
        read_image(tmp_path / "a.gif", reading_rule(None))
    with pytest.raises(DataError, match=r"b\.gif is not there"):
        read_image(tmp_path / "b.gif", reading_rule(None))
