"""Records of TFDS: found or prepared, without TensorFlow; the missing and the damaged refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from records import TABULAR, digits, record_file

from deeplearn.data.builders import tabular
from deeplearn.data.stream import TfdsImages
from deeplearn.data.tfds import Tfds
from deeplearn.errors import DataError, UsageError


def test_a_dataset_that_another_process_prepares_first_is_read(tmp_path, monkeypatch):
    generators, other = tabular.Builder._split_generators, []

    def overtaken(builder, manager):
        if not other:  # while this one prepares, another begins and comes to its end
            other.append(digits(tmp_path))
            assert len(other[0]) == 1249
        return generators(builder, manager)

    monkeypatch.setattr(tabular.Builder, "_split_generators", overtaken)
    assert len(digits(tmp_path)) == 1249 and other


@pytest.mark.parametrize("keep", [0, 100, 150_000])
def test_a_truncated_record_file_is_refused(copied, keep):
    path = record_file(copied)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"array_record.* holds 0 of 1249 records"):
        len(digits(copied))


def test_a_damaged_description_is_refused(copied):
    path = record_file(copied).with_name("dataset_info.json")
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match="'tabular/digits' in .* is damaged: .*; remove that"):
        len(digits(copied))


def test_a_missing_record_file_is_refused(copied):
    record_file(copied).unlink()
    with pytest.raises(DataError, match="holds 0 of 1249 records"):
        len(digits(copied))


def test_a_corrupt_record_is_refused(copied):
    path = record_file(copied)
    content = bytearray(path.read_bytes())
    content[5000] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tabular/digits/train from 0 to 1248 cannot be read"):
        len(digits(copied))


def test_unknown_splits_features_versions_and_names_are_refused(prepared):
    for options, message in [
        ({"split": "valid"}, "no split 'valid'.*'validation'"),
        ({"fields": (("x", "features"), *TABULAR)}, "no feature 'features'"),
        ({"version": "7.0.0"}, "'tabular/digits' cannot be prepared: .*7.0.0"),
    ]:
        with pytest.raises(DataError, match=message):
            len(digits(prepared, **options))
    with pytest.raises(DataError, match="no dataset 'cifar1O'; did you mean 'cifar10'"):
        len(Tfds("cifar1O", data_dir=str(prepared)))
    with pytest.raises(UsageError, match="write name='mnist', version='9.9.9'"):
        len(Tfds("mnist:9.9.9", data_dir=str(prepared)))
    with pytest.raises(DataError, match="no dataset 'zzzzzz'$"):
        len(Tfds("zzzzzz", data_dir=str(prepared)))
    with pytest.raises(DataError, match="TFDS cannot read dataset 'foo.bar'"):
        len(Tfds("foo.bar", data_dir=str(prepared)))
    with pytest.raises(DataError, match=r"the split 'train\[5%:2%\]' ends before it begins"):
        len(digits(prepared, "train[5%:2%]"))


def test_missing_data_name_the_command_that_brings_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    command = (
        "run: uv run --no-project --with tensorflow-cpu --with tensorflow-datasets"
        ' --with importlib_resources python -c "import tensorflow_datasets as tfds;'
        f" tfds.builder('cifar10', data_dir='{tmp_path}',"
        " file_format='array_record').download_and_prepare()\""
    )
    with pytest.raises(DataError) as missing:
        len(Tfds("cifar10"))
    assert str(missing.value) == f"dataset 'cifar10' is missing in {tmp_path}; {command}"
    with pytest.raises(DataError, match=f"put its source files in {tmp_path}/downloads/manual and"):
        len(TfdsImages("imagenet2012"))


def test_a_format_without_random_access_is_named(copied):
    info = next(copied.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="prepared as tfrecord, which has no random access"):
        len(digits(copied))


def test_no_tensorflow_is_imported(prepared):
    script = (
        "import sys\n"
        "from deeplearn.data.tfds import Tfds\n"
        f"source = Tfds('tabular/digits', 'train[:5]', data_dir={str(prepared)!r},\n"
        f"    fields={TABULAR!r})\n"
        "print(len(source), 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "5 False\n", done.stderr
    assert "OpenCV" not in done.stderr
