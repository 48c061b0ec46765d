"""A Transformer translates LibreOffice's help from English to German.

    ./launch.sh train --experiment=transformer_translate

Pages are split by a hash of their path; test paragraphs whose source occurs in training are
removed. It has not been run in full yet.
"""

from deeplearn.experiment import Experiment
from experiments._translation import small, translation


def experiment() -> Experiment:
    return translation("transformer_translate", ("de",), small(4000))
