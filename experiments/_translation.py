"""What the translators of LibreOffice's help share: data, subwords, optimizer."""

from deeplearn.data.libreoffice_help import LibreOfficeHelp
from deeplearn.data.pairs import PackedPairs
from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.experiment import Experiment
from deeplearn.models.encoder_decoder import EncoderDecoder, transformer_encoder_decoder
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.translation import Translation


def small(subwords: int) -> EncoderDecoder:
    """A Transformer for two CPU cores, over so many subwords."""
    return transformer_encoder_decoder(
        subwords, subwords, width=256, depth=2, heads=4, features=1024, dropout=0.2
    )


def translation(
    name: str,
    languages: tuple[str, ...],
    model: EncoderDecoder,
    steps: int = 2500,
    batch_size: int = 32,
    tile: int | None = None,
) -> Experiment:
    """English into `languages`; where there are several, the source begins with that of the target.

    Source and target share their subwords, as many as the model knows; `tile` is that of the task.
    """
    corpus = LibreOfficeHelp(languages)
    several = len(languages) > 1
    names = tuple(f"<{language}>" for language in languages) if several else ()
    subwords = LearnedBPE(corpus, model.vocabulary, (*SPECIALS, *names))

    return Experiment(
        name=name,
        task=Translation(model, smoothing=0.1, tile=tile),
        train=PackedPairs(corpus, "train", subwords, subwords, 128, 127, several, too_long="drop"),
        evaluation={
            split: PackedPairs(corpus, split, subwords, subwords, language_token=several)
            for split in ("validation", "test")
        },
        optimizer=AdamW(
            learning_rate=1e-3, schedule=Cosine(warmup=250), weight_decay=0.01, clip_norm=1.0
        ),
        steps=steps,
        batch_size=batch_size,
        evaluation_batch_size=64,
        log_every=50,
        # An evaluation takes as many times as long as there are languages.
        evaluate_every=500 * len(languages),
        save_every=500,
    )
