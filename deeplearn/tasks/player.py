"""The variables of a generator and a discriminator as one tree, and those of one of them."""

from __future__ import annotations

from deeplearn.types import PyTree, Variables

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def joined(generator: Variables, discriminator: Variables) -> Variables:
    """The collections of the two players as one tree; a player without a collection has no key."""
    names = dict.fromkeys([*generator, *discriminator])
    players = {GENERATOR: generator, DISCRIMINATOR: discriminator}
    return {
        name: {key: variables[name] for key, variables in players.items() if name in variables}
        for name in names
    }


def player(variables: Variables, name: str) -> dict[str, PyTree]:
    """The variables of one player alone, as its module takes them."""
    return {key: tree[name] for key, tree in variables.items() if name in tree}
