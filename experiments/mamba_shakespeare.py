"""A character-level Mamba on Shakespeare.

    ./launch.sh train --experiment=mamba_shakespeare

1,019,520 parameters. 1.511 nats per character on the validation split (one seed) after 90 minutes
on one of 2 CPU cores, beside tests; 1.564 after a quarter of the steps, 1.507 after five eighths.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.mamba import MambaSizes, mamba
from experiments._shakespeare import VOCABULARY, shakespeare


def experiment() -> Experiment:
    model = mamba(MambaSizes(VOCABULARY.size, width=192, depth=4), dropout=0.1)
    return shakespeare("mamba_shakespeare", model, learning_rate=2e-3)
