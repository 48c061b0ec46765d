"""A multilayer perceptron that predicts how diabetes progresses in a year: regression.

    ./launch.sh train --experiment=mlp_diabetes

7 s on 2 CPU cores. Mean absolute error on the test split 46.1 ± 1.8 (5 seeds, 83 examples) in the
unit of the target; ridge regression reaches 45.7, the mean of the training targets 67.1.
"""

from deeplearn.data.bundled import DIABETES_TARGET_MEAN, DIABETES_TARGET_STD, Bundled
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.tasks.regression import Regression


def experiment() -> Experiment:
    return Experiment(
        name="mlp_diabetes",
        task=Regression(
            MLP(hidden=(32,), outputs=1, dropout=0.2),
            target_mean=DIABETES_TARGET_MEAN,
            target_scale=DIABETES_TARGET_STD,
        ),
        train=Bundled("diabetes", "train"),
        evaluation={split: Bundled("diabetes", split) for split in ("validation", "test")},
        optimizer=AdamW(learning_rate=1e-3, weight_decay=0.1),
        steps=2000,
        batch_size=64,
        log_every=20,
        evaluate_every=20,
        save_every=200,
        early_stopping=EarlyStopping("validation/mae", patience=20),
    )
