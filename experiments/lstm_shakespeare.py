"""A character-level LSTM on Shakespeare.

    ./launch.sh train --experiment=lstm_shakespeare

1,083,904 parameters. 1.515 nats per character on the validation split (one seed) after 33 minutes
on one of 2 CPU cores, beside another run.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.lstm import lstm
from experiments._shakespeare import VOCABULARY, shakespeare


def experiment() -> Experiment:
    model = lstm(VOCABULARY.size, width=256, depth=2, dropout=0.2)
    return shakespeare("lstm_shakespeare", model, learning_rate=3e-3)
