"""What the four language models of Shakespeare share: data, optimizer, tokens seen."""

from deeplearn.data.shakespeare import ALPHABET, Shakespeare
from deeplearn.data.text import Windows
from deeplearn.data.vocabulary import Characters
from deeplearn.experiment import Experiment
from deeplearn.models.sequence import SequenceModel
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.language import Language

LENGTH = 128
VOCABULARY = Characters(ALPHABET)


def shakespeare(name: str, model: SequenceModel, learning_rate: float) -> Experiment:
    """16 million characters (16 passes) of 1.0 million, in windows of 128."""
    return Experiment(
        name=name,
        task=Language(model),
        train=Windows(Shakespeare(), "train", LENGTH, 1, VOCABULARY),
        evaluation={"validation": Windows(Shakespeare(), "validation", LENGTH, LENGTH, VOCABULARY)},
        optimizer=AdamW(
            learning_rate=learning_rate,
            schedule=Cosine(warmup=200),
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        steps=4000,
        batch_size=32,
        evaluation_batch_size=64,
        log_every=50,
        evaluate_every=500,
        save_every=500,
    )
