"""AlexNet on ImageNet, the recipe of 2012: 90 epochs, the rate divided by 10 thrice.

    ./launch.sh train --experiment=alexnet_imagenet

Differences from Krizhevsky et al. 2012, beside those of the model: the learning rate rises over the
first epoch and falls at epochs 30, 60 and 80, not where the validation error stops falling; crops
vary in size and shape (there all are 224 of 256 pixels); no noise on the colours; pixels are
divided by their deviation; evaluation sees one centred crop, not ten.

Not run in full: tested on mock data, shrunk.
"""

from deeplearn.data.image import RandomFlip
from deeplearn.data.stream import TfdsImages
from deeplearn.experiment import Experiment
from deeplearn.models.alexnet import AlexNet
from deeplearn.optimizers import SGD
from deeplearn.schedules import Step
from deeplearn.tasks.classification import Classification

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPOCH = 1_281_167 // 128


def experiment() -> Experiment:
    return Experiment(
        name="alexnet_imagenet",
        task=Classification(AlexNet()),
        train=TfdsImages("imagenet2012", "train", mean=MEAN, std=STD),
        evaluation={"validation": TfdsImages("imagenet2012", "validation", mean=MEAN, std=STD)},
        augment=(RandomFlip(),),
        optimizer=SGD(
            learning_rate=0.01,
            schedule=Step(warmup=EPOCH, boundaries=(30 * EPOCH, 60 * EPOCH, 80 * EPOCH)),
            weight_decay=5e-4,
        ),
        steps=90 * EPOCH,
        batch_size=128,
        log_every=100,
        evaluate_every=EPOCH,
        save_every=EPOCH,
    )
