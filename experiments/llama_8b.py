"""The Llama of 8 billion parameters on the news of C4, its state split over 8 GPUs.

    ./launch.sh train --experiment=llama_8b

A plan, never run: tests compute its shapes, and train it shrunk on mock data. 8,030,261,248
parameters in fp32, computed with in bfloat16. Of 8 devices each holds a state of 12.05 GB:
parameters 4.02, moments 8.03. A step adds 4.02 of gradients and 4.02 of their sum over the
microbatches, 1.07 GB that the layers keep of a row of 4096 tokens, and what the compiler gathers.
Documents are packed, and cuDNN's attention takes no mask that keeps them apart: while a layer is at
work its scores are there, in fp32 2.1 GB for each array of them.
The corpus is prepared with Apache Beam and must fit into the memory of the host.
"""

from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.text import Packed
from deeplearn.data.tfds_text import TfdsText
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.experiment import Experiment
from deeplearn.models.transformer import preset
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.language import Language

LENGTH = 4096
CORPUS = TfdsText("c4/realnewslike")
SUBWORDS = LearnedBPE(CORPUS, 128_256, SPECIALS)


def experiment() -> Experiment:
    model = preset("llama_8b", dtype="bfloat16").clone(remat="full")
    return Experiment(
        name="llama_8b",
        task=Language(model, tile=8016),
        train=Packed(CORPUS, "train", LENGTH, SUBWORDS),
        evaluation={"validation": Packed(CORPUS, "validation", LENGTH, SUBWORDS)},
        optimizer=AdamW(
            learning_rate=3e-4,
            b2=0.95,
            schedule=Cosine(warmup=2000, final=0.01),
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        # A million tokens a batch, a row a device at a time.
        steps=10_000,
        batch_size=256,
        evaluation_batch_size=8,
        microbatches=32,
        rules=((".", "fsdp"),),
        log_every=10,
        evaluate_every=1000,
        save_every=500,
    )
