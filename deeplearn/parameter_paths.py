"""Parameters by their paths: a parameter's keys joined by "/", such as "Dense_0/kernel".

What treats some parameters in a way of their own (weight decay, frozen parameters, Muon) names them
by a pattern that `re.search` finds in the path.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from deeplearn.types import Array, PyTree


def map_paths(function: Callable[[str], object], tree: PyTree) -> PyTree:
    """The tree of `function`(path) with a path such as "Dense_0/kernel" for every leaf."""
    return map_arrays(lambda path, _: function(path), tree)


def map_arrays(function: Callable[[str, Array], object], tree: PyTree) -> PyTree:
    """The tree of `function`(path, leaf)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf),
        tree,
    )
