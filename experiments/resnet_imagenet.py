"""ResNet-50 on ImageNet in bfloat16: 90 epochs of SGD with warm-up and a cosine.

    ./launch.sh train --experiment=resnet_imagenet

Differences from Goyal et al. 2017 (arXiv:1706.02677): a cosine in place of three divisions by 10, a
warm-up that starts at 0, label smoothing of 0.1, half of the weight decay, and bfloat16.

Not run in full: tested on mock data, shrunk.
"""

from deeplearn.data.image import RandomFlip
from deeplearn.data.stream import TfdsImages
from deeplearn.experiment import Experiment
from deeplearn.models.resnet import ResNet
from deeplearn.optimizers import SGD
from deeplearn.schedules import Cosine
from deeplearn.tasks.classification import Classification

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPOCH = 1_281_167 // 1024


def experiment() -> Experiment:
    return Experiment(
        name="resnet_imagenet",
        task=Classification(ResNet(depth=50, outputs=1000, dtype="bfloat16"), smoothing=0.1),
        train=TfdsImages("imagenet2012", "train", mean=MEAN, std=STD),
        evaluation={"validation": TfdsImages("imagenet2012", "validation", mean=MEAN, std=STD)},
        augment=(RandomFlip(),),
        # Goyal et al.: 0.1 for every 256 examples of the batch.
        optimizer=SGD(
            learning_rate=0.4,
            nesterov=True,
            schedule=Cosine(warmup=5 * EPOCH),
            weight_decay=5e-5,
        ),
        steps=90 * EPOCH,
        batch_size=1024,
        log_every=100,
        evaluate_every=EPOCH,
        save_every=EPOCH,
    )
