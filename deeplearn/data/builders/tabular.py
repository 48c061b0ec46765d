"""The sets that come with scikit-learn as TFDS datasets: `tabular/digits` and so on.

Splits, fields and order are those of `data/bundled.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplearn.data.bundled import PLACES, SETS, Bundled

with tfds.core.registered.skip_registration():

    class Builder(tfds.core.GeneratorBasedBuilder):
        """One configuration for each bundled set."""

        name = "tabular"
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SETS]

        def _info(self) -> tfds.core.DatasetInfo:
            spec = Bundled(self.builder_config.name).spec
            return tfds.core.DatasetInfo(
                builder=self,
                description=self.__doc__,
                features=tfds.features.FeaturesDict(
                    {
                        name: tfds.features.Tensor(shape=field.shape, dtype=np.dtype(field.dtype))
                        for name, field in spec.items()
                    }
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
            return {split: self._generate_examples(split) for split in PLACES}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
            source = Bundled(self.builder_config.name, split)
            for index in range(len(source)):
                yield index, {name: value[index] for name, value in source.arrays.items()}
