"""A decoder of the base size of Vaswani et al. on the One Billion Word Benchmark.

    ./launch.sh train --experiment=transformer_lm1b

34,406,400 parameters in bfloat16 for one GPU. Not run in full: tested on mock data, shrunk.
"""

from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.text import Packed
from deeplearn.data.tfds_text import TfdsText
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.experiment import Experiment
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.language import Language

LENGTH = 256
CORPUS = TfdsText("lm1b")
SUBWORDS = LearnedBPE(CORPUS, 30_000, SPECIALS)


def experiment() -> Experiment:
    sizes = GPT2(SUBWORDS.size_limit, width=512, depth=6, heads=8, max_length=LENGTH)
    return Experiment(
        name="transformer_lm1b",
        # All logits of a batch would take 7.9 GB.
        task=Language(transformer(sizes, dropout=0.1, dtype="bfloat16"), tile=7500),
        # Sentences, packed whole: 65,536 places in a batch.
        train=Packed(CORPUS, "train", LENGTH, SUBWORDS),
        evaluation={"test": Packed(CORPUS, "test", LENGTH, SUBWORDS)},
        optimizer=AdamW(
            learning_rate=1e-3,
            b2=0.98,
            schedule=Cosine(warmup=4000),
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        steps=100_000,
        batch_size=256,
        evaluation_batch_size=256,
        log_every=100,
        evaluate_every=5000,
        save_every=1000,
    )
