"""A character-level recurrent network of Elman on Shakespeare.

    ./launch.sh train --experiment=rnn_shakespeare

1,116,160 parameters. 1.560 nats per character on the validation split (one seed) after 18 minutes
on 2 CPU cores, most of the time unshared.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.rnn import rnn
from experiments._shakespeare import VOCABULARY, shakespeare


def experiment() -> Experiment:
    model = rnn(VOCABULARY.size, width=512, depth=2, dropout=0.2)
    return shakespeare("rnn_shakespeare", model, learning_rate=1e-3)
