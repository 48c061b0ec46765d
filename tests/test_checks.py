"""Fields that no model may have are refused, whatever the model."""

import jax
import jax.numpy as jnp
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.layers.checks import require_sizes
from deeplearn.models.alexnet import AlexNet
from deeplearn.models.bert import BERT
from deeplearn.models.encoder import TextClassifier
from deeplearn.models.mlp import MLP
from deeplearn.models.sequence import Block, SequenceModel
from deeplearn.models.unet import UNet

TOKENS = jnp.ones((1, 2), jnp.int32)
IMAGES = jnp.ones((1, 4, 4, 1))
ENCODER = BERT(5, width=4, depth=1, heads=1, features=4)
MODELS = {
    "AlexNet": (AlexNet(), (IMAGES,)),
    "BERT": (ENCODER, (TOKENS,)),
    "MLP": (MLP((4,), 3), (IMAGES,)),
    "TextClassifier": (TextClassifier(ENCODER, outputs=3), (TOKENS,)),
    "UNet": (UNet(), (IMAGES, jnp.ones(1))),
    "a sequence model": (SequenceModel(5, 4, 1, (Block(Attention(1, 4)),)), (TOKENS,)),
}


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 20.0, float("nan")])
@pytest.mark.parametrize("name", MODELS)
def test_a_dropout_that_is_no_part_is_refused(name, dropout):
    model, inputs = MODELS[name]
    with pytest.raises(UsageError, match=rf"dropout={dropout} of {name} must be in \[0, 1\)"):
        jax.eval_shape(model.clone(dropout=dropout).init, jax.random.key(0), *inputs)


def test_a_size_below_one_is_named():
    require_sizes("Layer", heads=1, window=None)
    with pytest.raises(UsageError, match="window=0 of Layer must be 1 or more"):
        require_sizes("Layer", heads=1, window=0)
