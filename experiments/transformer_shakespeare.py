"""A character-level Transformer on Shakespeare, in the form of Mistral.

    ./launch.sh train --experiment=transformer_shakespeare

A token sees the 128 characters up to itself, by rotary positions: as many in training, whose
windows are as long, as in a text of any length that it writes.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.transformer import Llama, transformer
from experiments._shakespeare import LENGTH, VOCABULARY, shakespeare


def experiment() -> Experiment:
    sizes = Llama(
        VOCABULARY.size,
        width=128,
        depth=5,
        heads=4,
        kv_heads=4,
        features=360,
        rotary=10_000.0,
        tied=True,
        window=LENGTH,
    )
    model = transformer(sizes, dropout=0.1)
    return shakespeare("transformer_shakespeare", model, learning_rate=2e-3)
