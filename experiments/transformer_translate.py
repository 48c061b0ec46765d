"""A Transformer translates LibreOffice's help from English to German.

    ./launch.sh train --experiment=transformer_translate

Pages are split by a hash of their path; test paragraphs whose source occurs in training are
removed. `translation(name, languages)` makes one model for several languages.
It has not been run in full yet.
"""

from deeplearn.data.libreoffice_help import LibreOfficeHelp
from deeplearn.data.pairs import PackedPairs, Pairs
from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.experiment import Experiment
from deeplearn.models.encoder_decoder import transformer_encoder_decoder
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.translation import Translation

SUBWORDS = 4000


def experiment() -> Experiment:
    return translation("transformer_translate", ("de",))


def translation(name: str, languages: tuple[str, ...], steps: int = 4000) -> Experiment:
    """English into `languages`; where there are several, the source begins with that of the target.

    Source and target share their subwords.
    """
    corpus = LibreOfficeHelp(languages)
    several = len(languages) > 1
    names = tuple(f"<{language}>" for language in languages) if several else ()
    subwords = LearnedBPE(corpus, SUBWORDS * len(languages), (*SPECIALS, *names))

    def pairs(kind: type[Pairs], split: str, length: int) -> Pairs:
        return kind(corpus, split, subwords, subwords, length, length - 1, language_token=several)

    size = subwords.size_limit
    model = transformer_encoder_decoder(
        size, size, width=256, depth=2, heads=4, features=1024, dropout=0.2
    )
    return Experiment(
        name=name,
        task=Translation(model, smoothing=0.1),
        train=pairs(PackedPairs, "train", 128),
        # No test pair is longer.
        evaluation={split: pairs(Pairs, split, 192) for split in ("validation", "test")},
        optimizer=AdamW(
            learning_rate=1e-3, schedule=Cosine(warmup=250), weight_decay=0.01, clip_norm=1.0
        ),
        steps=steps,
        batch_size=32,
        evaluation_batch_size=64,
        log_every=50,
        evaluate_every=500,
        save_every=500,
    )
