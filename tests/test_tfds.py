from __future__ import annotations

import io
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from records import digits, record_file

from deeplearn.data.bundled import Bundled
from deeplearn.data.dataset import Sequential, Shuffled
from deeplearn.data.source import Field
from deeplearn.data.stream import TfdsImages
from deeplearn.data.tfds import Tfds
from deeplearn.errors import DataError, UsageError


@pytest.fixture
def mock():
    """Fake examples for every TFDS name."""
    with tfds.testing.mock_data(num_examples=20):
        yield


def test_a_stock_dataset_of_one_shape_is_read_into_memory(mock):
    source = Tfds("cifar10", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert source.spec == {"x": Field((32, 32, 3), "float32"), "label": Field((), "int32")}
    assert len(source) == 20 and source.in_memory
    stock = tfds.data_source("cifar10", split="train")
    batch = source.gather(np.array([7, 0]))
    for row, index in enumerate((7, 0)):
        expected = (stock[index]["image"] / 255 - [0.5, 0.4, 0.3]) / 0.2
        np.testing.assert_allclose(batch["x"][row], expected, atol=1e-5)
        assert batch["label"][row] == stock[index]["label"]


def test_images_of_many_sizes_need_the_stream(mock):
    with pytest.raises(DataError, match="'image' of imagenet2012/train has no fixed shape"):
        len(Tfds("imagenet2012"))


@pytest.mark.parametrize(
    "fields", [{"size": 0}, {"area": (0.5, 0.1)}, {"aspect": (0.0, 1.0)}, {"center": 2.0}]
)
def test_impossible_crops_are_refused(fields):
    with pytest.raises(UsageError, match=f"TfdsImages: {next(iter(fields))}="):
        TfdsImages("imagenet2012", **fields)


def test_streamed_images_have_one_size(mock):
    source = TfdsImages("imagenet2012", size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert not source.in_memory and len(source) == 20
    for dataset in (Sequential(source, 6), Shuffled(source, 6, 0)):
        batch = dataset.batch(1, slice(0, 6))
        assert batch["x"].shape == (6, 16, 16, 3) and batch["label"].dtype == np.int32
        assert -2 <= batch["x"].min() < 0 < batch["x"].max() <= 2
    stock = tfds.data_source("imagenet2012", split="train")
    labels = Sequential(source, 20).batch(0, slice(0, 20))["label"]
    assert labels.tolist() == [stock[index]["label"] for index in range(20)]


def test_random_crops_depend_on_the_example_and_the_epoch_only(mock):
    source = TfdsImages("imagenet2012", size=8)
    dataset = Shuffled(source, 20, 0)
    whole = dataset.batch(3, slice(0, 20))
    parts = [dataset.batch(3, rows) for rows in (slice(0, 7), slice(7, 20))]
    np.testing.assert_array_equal(whole["x"], np.concatenate([p["x"] for p in parts]))
    crops = [{x.tobytes() for x in dataset.batch(t, slice(0, 20))["x"]} for t in (0, 1)]
    assert len(crops[0] & crops[1]) == 0


def images(*arrays: np.ndarray):
    """Data of which example i shows array i."""

    def as_data_source(self, split, **_):
        return [{"image": array, "label": i} for i, array in enumerate(arrays)]

    return tfds.testing.mock_data(as_data_source_fn=as_data_source)


def gradient(height: int, width: int) -> np.ndarray:
    """Red tells the column and green the row, both from 0 to 200; blue is 100."""
    red = np.broadcast_to(np.linspace(0, 200, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 200, height)[:, None], (height, width))
    return np.stack([red, green, np.full((height, width), 100)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (80, 80)])
def test_evaluation_takes_the_centred_square(shape):
    with images(gradient(*shape)):
        source = TfdsImages("imagenet2012", size=10, center=0.5)
        x = source.gather(np.array([0]))["x"][0] * 255
    side = 0.5 * min(shape)
    for channel, axis, length in ((0, 1, shape[1]), (1, 0, shape[0])):
        profile = x[..., channel].mean(axis=1 - axis)
        middle = (length - side) / 2 + side * (np.arange(10) + 0.5) / 10
        np.testing.assert_allclose(profile, 200 * middle / length, atol=4)
    np.testing.assert_allclose(x[..., 2], 100, atol=1)


def test_random_crops_have_the_stated_areas_and_shapes():
    with images(gradient(100, 150)):
        source = TfdsImages("imagenet2012", size=24, area=(0.1, 0.4), aspect=(0.5, 2.0))
        keys = np.random.default_rng(0).integers(0, 2**63, 200).astype(np.uint64)
        x = source.sample(np.zeros(200, int), keys)["x"] * 255
    # A crop shows a part of the range of 200 that is its part of the side, but for half a pixel.
    across = (x[:, :, -1, 0] - x[:, :, 0, 0]).mean(axis=1) / 200 * 24 / 23
    down = (x[:, -1, :, 1] - x[:, 0, :, 1]).mean(axis=1) / 200 * 24 / 23
    area, aspect = across * down, across * 150 / (down * 100)
    assert 0.08 < area.min() < 0.13 and 0.35 < area.max() < 0.43
    assert 0.4 < aspect.min() < 0.6 and 1.7 < aspect.max() < 2.3
    assert abs(np.log(aspect).mean()) < 0.15
    left = x[:, :, 0, 0].mean(axis=1)
    assert left.min() < 10 and left.max() > 60 and len(np.unique(left)) > 80


def test_grey_and_transparent_images_become_three_channels():
    pixels = gradient(20, 20)
    with images(pixels[..., :1], np.concatenate([pixels, pixels[..., :1]], axis=-1), pixels):
        x = TfdsImages("imagenet2012", size=5).gather(np.arange(3))["x"]
    np.testing.assert_array_equal(x[0, ..., 0], x[0, ..., 2])
    np.testing.assert_array_equal(x[1], x[2])


def test_an_undecodable_example_is_named():
    class Broken(list):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("cannot identify image file")
            return super().__getitem__(index)

    rows = Broken([{"image": gradient(9, 9), "label": 0}] * 5)
    with tfds.testing.mock_data(as_data_source_fn=lambda self, split, **_: rows):
        source = TfdsImages("imagenet2012", size=5)
        source.gather(np.array([0, 1]))
        with pytest.raises(DataError, match="example of imagenet2012/train from 3 to 3 cannot be"):
            source.gather(np.array([2, 3]))


def test_what_was_prepared_equals_its_source(prepared):
    for split in ("train", "validation", "test"):
        source, bundled = digits(prepared, split), Bundled("digits", split)
        assert source.digest == bundled.digest and source.spec == bundled.spec


def test_the_second_reading_uses_the_arrays_beside_the_records(copied, monkeypatch):
    first = digits(copied)
    digest = first.digest
    monkeypatch.setattr(Tfds, "_read", lambda self: pytest.fail("read the records again"))
    assert digits(copied).digest == digest


def test_the_kept_arrays_of_other_fields_or_splits_or_records_are_not_used(copied):
    assert set(digits(copied, "test", fields=(("label", "label"),)).spec) == {"label"}
    assert set(digits(copied, "test").spec) == {"x", "label"}
    digest = digits(copied).digest
    assert len(digits(copied, "validation")) == 185
    assert len(digits(copied, "train[:10]")) == 10
    os.utime(record_file(copied), (1, 1))
    assert digits(copied).digest == digest
    assert len(list(copied.rglob("arrays-train-*"))) == 2


@pytest.mark.parametrize("damage", ["flip", "header", "directory", "cut", "empty"])
def test_damaged_arrays_are_made_anew(copied, damage):
    digest = digits(copied).digest
    path = next(copied.rglob("arrays-train-*"))
    content = bytearray(path.read_bytes())
    where = {
        "header": content.index(b"'shape': (1") + 11,  # 1249 rows become 1049: numpy reads those
        "directory": content.rindex(b"PK\x01\x02") + 6,  # another version of zip
    }
    content[where.get(damage, len(content) // 2)] ^= 64 if damage == "directory" else 2
    path.write_bytes({"cut": content[:9000], "empty": b""}.get(damage, content))
    assert digits(copied).digest == digest
    assert len(path.read_bytes()) == len(content)


def test_a_directory_that_cannot_be_written_is_read_all_the_same(copied, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(digits(copied)) == 1249
    assert not list(copied.rglob("arrays-*"))


def test_the_digest_of_a_stream_is_that_of_its_files(copied):
    options = {"data_dir": str(copied)}
    digest = TfdsImages("tabular/digits", **options).digest
    assert digest == TfdsImages("tabular/digits", size=99, **options).digest
    assert digest != TfdsImages("tabular/digits", "test", **options).digest
    os.utime(record_file(copied), (1, 1))
    assert digest == TfdsImages("tabular/digits", **options).digest


def test_png_images_come_back_as_they_went_in(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": np.int64}
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for index, image in enumerate(pixels):
                    png = io.BytesIO()
                    Image.fromarray(image).save(png, "PNG")
                    png.seek(0)
                    yield index, {"image": png, "label": index}

    Tiny(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    arrays = Tfds("tiny", data_dir=str(tmp_path)).arrays
    np.testing.assert_array_equal(arrays["x"], pixels[arrays["label"]])
