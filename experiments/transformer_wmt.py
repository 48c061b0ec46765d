"""The base Transformer of Vaswani et al. on WMT 2014, English to German, in bfloat16.

    ./launch.sh train --experiment=transformer_wmt

Not run in full: tested on mock data, shrunk.
"""

from deeplearn.data.pairs import PackedPairs
from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.tfds_pairs import TfdsPairs
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.experiment import Experiment
from deeplearn.models.encoder_decoder import transformer_encoder_decoder
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.translation import Translation

CORPUS = TfdsPairs("wmt14_translate/de-en", source="en", target="de")
SUBWORDS = LearnedBPE(CORPUS, 37_000, SPECIALS)


def experiment() -> Experiment:
    size = SUBWORDS.size_limit
    model = transformer_encoder_decoder(size, size, dtype="bfloat16")
    return Experiment(
        name="transformer_wmt",
        # All logits of a batch would take 3.6 GB.
        task=Translation(model, smoothing=0.1, tile=9250),
        train=PackedPairs(CORPUS, "train", SUBWORDS, SUBWORDS, 128, 128, too_long="drop"),
        evaluation={
            split: PackedPairs(CORPUS, split, SUBWORDS, SUBWORDS)
            for split in ("validation", "test")
        },
        # The peak of the paper, 512^-0.5 · 4000^-0.5, but a cosine behind it.
        optimizer=AdamW(learning_rate=7e-4, b2=0.98, eps=1e-9, schedule=Cosine(warmup=4000)),
        steps=100_000,
        # 25,000 tokens of the target, as in the paper.
        batch_size=192,
        log_every=100,
        evaluate_every=5000,
        save_every=1000,
    )
