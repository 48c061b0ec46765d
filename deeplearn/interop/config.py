"""A config.json of Hugging Face, whose every value is asked for; one that was not is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeplearn.errors import DataError

# What says nothing of the function from inputs to outputs.
HARMLESS = {
    "_name_or_path",
    "_num_labels",
    "architectures",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "label2id",
    "model_type",
    "output_past",
    "pad_token_id",
    "problem_type",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


class Config:
    """The values of a config.json; `where` names it in errors, which are `DataError`."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._values = values
        self._asked = set(HARMLESS)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that name, or `default`."""
        self._asked.add(name)
        return self._values.get(name, default)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number of 1 or more."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{self.where}: {name}={value!r} must be a whole number of 1 or more")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise DataError(f"{self.where}: {name}={value!r} must be a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise DataError(f"{self.where}: {name}={value!r} must be true or false")
        return value

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuses a value that is not allowed; a name that is absent has the first of them."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise DataError(
                f"{self.where}: {name}={value!r} cannot be expressed; our model has"
                f" {name}={allowed[0]!r} only"
            )

    def skip(self, *names: str) -> None:
        """Passes over values that only matter in training, or to other software."""
        self._asked.update(names)

    def finish(self) -> None:
        """Refuses a value that nobody asked for, unless it is empty."""
        for name, value in self._values.items():
            if name not in self._asked and value:
                raise DataError(
                    f"{self.where}: {name}={value!r} is not known for this model_type; if the"
                    " outputs do not depend on it, take it out"
                )
