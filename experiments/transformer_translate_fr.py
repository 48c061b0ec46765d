"""A Transformer translates LibreOffice's help from English to French.

    ./launch.sh train --experiment=transformer_translate_fr

The sizes and steps of `transformer_translate`. 124 min on one CPU core beside another run; one
seed: over 2,416 test paragraphs chrF 63.7 and BLEU 42.1 by a beam of 4. The translation of the most
like source that is known has 35.0 and 16.2, the source itself 27.3 and 7.7.
"""

from deeplearn.experiment import Experiment
from experiments._translation import small, translation


def experiment() -> Experiment:
    return translation("transformer_translate_fr", ("fr",), small(4000))
