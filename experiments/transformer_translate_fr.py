"""A Transformer translates LibreOffice's help from English to French.

    ./launch.sh train --experiment=transformer_translate_fr

It has not been run in full yet.
"""

from deeplearn.experiment import Experiment
from experiments._translation import small, translation


def experiment() -> Experiment:
    return translation("transformer_translate_fr", ("fr",), small(4000))
