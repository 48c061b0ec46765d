"""One Transformer translates LibreOffice's help from English into six languages.

    ./launch.sh train --experiment=transformer_translate_six

As many steps and tokens as `transformer_translate` has for German alone. One seed, some 95 min on
one CPU core, of which 90 behind the one restart; scoring the 14,252 test paragraphs took some 30
more there (the translations half of that). chrF and BLEU by a beam of 4, and those of the
translation of the most like source known:

               de     es     fr     it     nl     pt-BR
    chrF       37.4   47.9   48.4   45.6   43.5   51.2
      known    33.0   34.3   35.0   34.7   33.7   34.5
    BLEU       17.0   26.7   25.5   21.7   22.3   29.2
      known    13.8   15.6   16.2   14.9   14.2   15.1

The models of one language have a chrF of 51.2 (German) and 63.7 (French), with six times as many
steps for it.
"""

from deeplearn.experiment import Experiment
from experiments._translation import small, translation

LANGUAGES = ("de", "es", "fr", "it", "nl", "pt-BR")


def experiment() -> Experiment:
    return translation("transformer_translate_six", LANGUAGES, small(8000))
