"""A character-level recurrent network of Elman on Shakespeare.

    ./launch.sh train --experiment=rnn_shakespeare

1,116,160 parameters. It has not been run in full yet.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.rnn import rnn
from experiments._shakespeare import VOCABULARY, shakespeare


def experiment() -> Experiment:
    model = rnn(VOCABULARY.size, width=512, depth=2, dropout=0.2)
    return shakespeare("rnn_shakespeare", model, learning_rate=1e-3)
