"""A character-level Transformer on Shakespeare, in nanoGPT's size and recipe, for a GPU.

    ./launch.sh train --experiment=transformer_shakespeare_large

10,770,816 parameters in bfloat16 for one GPU. Not run here: tested shrunk. The reference is 1.4697
nats per character, the best validation loss that Karpathy's nanoGPT gives in its README for
`config/train_shakespeare_char.py` (github.com/karpathy/nanoGPT), on tiny-Shakespeare and in random
windows. Differences: there neither layers nor norms have biases, and attention weights are dropped
out too. It may overfit before the last step: the best state is the result.
"""

from deeplearn.data.shakespeare import Shakespeare
from deeplearn.data.text import Windows
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.language import Language
from experiments._shakespeare import VOCABULARY

LENGTH = 256


def experiment() -> Experiment:
    sizes = GPT2(VOCABULARY.size, width=384, depth=6, heads=6, max_length=LENGTH)
    model = transformer(sizes, dropout=0.2, dtype="bfloat16")
    return Experiment(
        name="transformer_shakespeare_large",
        task=Language(model),
        train=Windows(Shakespeare(), "train", LENGTH, 1, VOCABULARY),
        evaluation={"validation": Windows(Shakespeare(), "validation", LENGTH, LENGTH, VOCABULARY)},
        optimizer=AdamW(
            learning_rate=1e-3,
            b2=0.99,
            schedule=Cosine(warmup=100, final=0.1),
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        steps=5000,
        batch_size=64,
        evaluation_batch_size=64,
        evaluate_every=250,
        save_every=250,
        # As many evaluations as there are: it never stops early.
        early_stopping=EarlyStopping(patience=20),
    )
