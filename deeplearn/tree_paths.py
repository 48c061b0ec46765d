"""Leaves of a pytree by their paths: the keys joined by "/", such as "params/Dense_0/kernel".

What treats some leaves in a way of their own (weight decay, frozen parameters, Muon, sharding)
names them by a pattern that `re.search` finds in the path.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from deeplearn.types import Array, PyTree

STACK = r"(^|/)(layers|stack_\d+)/"
"""Paths of the arrays with a leading axis of layers."""


def path_name(path: tuple) -> str:
    """A path of `jax.tree_util` as text."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_paths(function: Callable[[str], object], tree: PyTree) -> PyTree:
    """The tree of `function`(path)."""
    return map_arrays(lambda path, _: function(path), tree)


def map_arrays(function: Callable[[str, Array], object], tree: PyTree) -> PyTree:
    """The tree of `function`(path, leaf)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), tree
    )
