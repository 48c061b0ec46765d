"""The base of builders of images in idx files, the format of MNIST and its successors.

The stock builders of these sets unpack through TensorFlow; these prepare the same examples under
the same name without it, and the stock `tfds.data_source` reads what they prepared.
"""

from __future__ import annotations

import gzip
import hashlib
import urllib.request
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from deeplearn.errors import DataError

_HEADERS = {"images": 16, "labels": 8}
_PROBE_SECONDS = 5


class IdxBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Prepares 28×28 grey images with labels from four idx files, plain or gzipped.

    The files are downloaded where their address answers, and otherwise looked for in
    `directories` and in TFDS's directory of manual downloads, with a warning where a download has
    failed. Raises `DataError` where there are none, or where their content is not that of `sha256`
    (file name → hash of the plain bytes).
    """

    VERSION = tfds.core.Version("3.0.1")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the four idx files, or their package, here."
    url: ClassVar[str]
    homepage: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    sha256: ClassVar[Mapping[str, str]]
    directories: ClassVar[tuple[str, ...]] = ()
    command: ClassVar[str]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=self.classes),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=self.homepage,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        contents = self._contents(dl_manager)
        return {
            split: self._generate_examples(
                contents[f"{prefix}-images-idx3-ubyte"], contents[f"{prefix}-labels-idx1-ubyte"]
            )
            for split, prefix in (("train", "train"), ("test", "t10k"))
        }

    def _generate_examples(self, images: bytes, labels: bytes) -> Iterator[tuple[int, dict]]:
        pixels = np.frombuffer(images, np.uint8, offset=_HEADERS["images"]).reshape(-1, 28, 28)
        numbers = np.frombuffer(labels, np.uint8, offset=_HEADERS["labels"])
        for index, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}

    def _contents(self, dl_manager: Any) -> dict[str, bytes]:
        """File name → plain bytes, from the first place that has them all."""
        paths = self._downloaded(dl_manager) or self._found(dl_manager)
        if not paths:
            raise self._missing(dl_manager, f"{self.url} does not answer")
        contents = {name: _plain(path) for name, path in paths.items()}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != self.sha256[name]:
                raise DataError(
                    f"{paths[name]} does not hold {self.name}'s {name} (its SHA-256 differs);"
                    " remove the file and fetch it again"
                )
        return contents

    def _downloaded(self, dl_manager: Any) -> dict[str, Path]:
        """The files from the stock address, checked by TFDS; nothing where it does not answer.

        Where a download fails they are those found elsewhere, if there are any.
        """
        request = urllib.request.Request(f"{self.url}{next(iter(self.sha256))}.gz", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                pass
        except OSError:  # no network, no such host, an HTTP error, a timeout
            return {}
        try:
            return dl_manager.download({name: f"{self.url}{name}.gz" for name in self.sha256})
        except Exception as error:  # what TFDS raises here has no base of its own
            what = " ".join(str(error).split())[:400]
            if not (found := self._found(dl_manager)):
                raise self._missing(dl_manager, f"its download failed ({what})") from error
            place = next(iter(found.values())).parent
            warnings.warn(
                f"{self.name} could not be downloaded ({what}); took it from {place}", stacklevel=3
            )
            return found

    def _found(self, dl_manager: Any) -> dict[str, Path]:
        """The files in the first directory that has them all; nothing where none has."""
        manual = _manual(dl_manager)
        places = [*map(Path, self.directories), manual, *manual.glob("*"), *manual.glob("*/data")]
        for place in places:
            paths = {
                name: path
                for name in self.sha256
                for path in (place / name, place / f"{name}.gz")
                if path.is_file()
            }
            if len(paths) == len(self.sha256):
                return paths
        return {}

    def _missing(self, dl_manager: Any, reason: str) -> DataError:
        command = self.command.format(manual=_manual(dl_manager))
        return DataError(
            f"dataset '{self.name}' is neither prepared nor found, and {reason}; run: {command}"
        )


def _manual(dl_manager: Any) -> Path:
    return Path(dl_manager.download_dir) / "manual"


def _plain(path: Path) -> bytes:
    content = Path(path).read_bytes()
    try:
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a broken gzip file ({error}); fetch it again") from error
