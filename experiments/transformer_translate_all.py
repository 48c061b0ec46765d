"""One Transformer translates LibreOffice's help from English into 33 languages, on a GPU.

    ./launch.sh train --experiment=transformer_translate_all

The base size of Vaswani et al. 2017 in bfloat16. It has not been run in full yet.
"""

from deeplearn.data.libreoffice_help import LANGUAGES
from deeplearn.experiment import Experiment
from deeplearn.models.encoder_decoder import transformer_encoder_decoder
from experiments._translation import translation


def experiment() -> Experiment:
    model = transformer_encoder_decoder(32_000, 32_000, dropout=0.2, dtype="bfloat16")
    # All logits of a batch would take 4.2 GB.
    return translation(
        "transformer_translate_all", LANGUAGES, model, steps=30_000, batch_size=256, tile=8000
    )
