"""A character-level Transformer on Shakespeare.

    ./launch.sh train --experiment=transformer_shakespeare

1,065,472 parameters. 1.527 nats per character on the validation split (one seed) after 47 minutes
on one of 2 CPU cores, beside another run. Positions from 128 on are never trained: the text that
it samples turns to noise there.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.transformer import GPT2, transformer
from experiments._shakespeare import VOCABULARY, shakespeare


def experiment() -> Experiment:
    model = transformer(
        GPT2(VOCABULARY.size, width=128, depth=5, heads=4, max_length=512), dropout=0.1
    )
    return shakespeare("transformer_shakespeare", model, learning_rate=2e-3)
