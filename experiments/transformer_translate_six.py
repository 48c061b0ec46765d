"""One Transformer translates LibreOffice's help from English into six languages.

    ./launch.sh train --experiment=transformer_translate_six

It has not been run in full yet.
"""

from deeplearn.experiment import Experiment
from experiments._translation import small, translation

LANGUAGES = ("de", "es", "fr", "it", "nl", "pt-BR")


def experiment() -> Experiment:
    return translation("transformer_translate_six", LANGUAGES, small(8000))
