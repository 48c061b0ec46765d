"""The Mamba of 2.8 billion parameters on the news of C4, its state split over 8 GPUs.

    ./launch.sh train --experiment=mamba_2_8b

A plan, never run: tests compute its shapes, and train it shrunk on mock data. 2,768,345,600
parameters in fp32, computed with in bfloat16. Of 8 devices each holds a state of 4.15 GB:
parameters 1.38, moments 2.77. A step adds 1.38 of gradients and 1.38 of their sum over the
microbatches, 0.67 GB that the layers keep of a row of 2048 tokens, and what the compiler gathers
(for 8 CPU devices it asks for 6.2 GB beside the state, in fp32).
The corpus is prepared with Apache Beam and must fit into the memory of the host.
"""

from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.text import Packed
from deeplearn.data.tfds_text import TfdsText
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.experiment import Experiment
from deeplearn.models.mamba import preset
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.language import Language

LENGTH = 2048
CORPUS = TfdsText("c4/realnewslike")
SUBWORDS = LearnedBPE(CORPUS, 50_280, SPECIALS)


def experiment() -> Experiment:
    model = preset("mamba_2.8b", dtype="bfloat16").clone(remat="full")
    return Experiment(
        name="mamba_2_8b",
        task=Language(model, tile=8380),
        train=Packed(CORPUS, "train", LENGTH, SUBWORDS),
        evaluation={"validation": Packed(CORPUS, "validation", LENGTH, SUBWORDS)},
        # Five times the learning rate of GPT-3 at this size, as in the paper (appendix E.2).
        optimizer=AdamW(
            learning_rate=8e-4,
            b2=0.95,
            schedule=Cosine(warmup=2000, final=0.01),
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        # Half a million tokens a batch, a row a device at a time.
        steps=20_000,
        batch_size=256,
        evaluation_batch_size=8,
        microbatches=32,
        # Split along the axis that is summed over, these would be gathered for all layers at once.
        rules=((r"(out_proj|x_proj)/kernel$", (None, None, "data")), (".", "fsdp")),
        log_every=10,
        evaluate_every=1000,
        save_every=500,
    )
