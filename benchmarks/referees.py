"""Classical methods on the splits of the experiments: what a network has to beat.

    python -m benchmarks.referees

Writes benchmarks/results/referees.json. On the tabular sets it holds the accuracy on the test split
(mean absolute error for diabetes) of scikit-learn's methods with their default settings, but for
what is written here. Texts are answered by themselves, or by the answer to the nearest source of
the training split: cosine of character 1- to 4-grams weighted by tf-idf.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from deeplearn.data.bundled import Bundled
from deeplearn.data.cmudict import Pronunciations
from deeplearn.data.libreoffice_help import LibreOfficeHelp
from deeplearn.report.receipt import cpu, versions, write_json
from deeplearn.text_metrics import bleu, chrf, error_rate
from experiments.transformer_translate_six import LANGUAGES

RESULTS = Path(__file__).parent / "results"


def split(name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, features) and answers (N,) of a split."""
    arrays = Bundled(name, part).arrays
    answers = arrays["target" if "target" in arrays else "label"]
    return arrays["x"].reshape(len(answers), -1), answers


def classifiers() -> dict[str, Any]:
    """The methods for labels."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    return {
        "logistic regression": LogisticRegression(max_iter=5000),
        "random forest": RandomForestClassifier(500, random_state=0),
        "RBF support vectors, C = 10": SVC(C=10),
    }


def regressors() -> dict[str, Any]:
    """The methods for targets."""
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV

    return {
        "mean of the training split": DummyRegressor(),
        "ridge": RidgeCV(np.logspace(-3, 3, 13)),
        "random forest": RandomForestRegressor(500, random_state=0),
    }


def nearest(known: list[str], asked: list[str], rows: int = 256) -> np.ndarray:
    """The place in `known` of the text most like each text of `asked`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, dtype=np.float32
    )
    there = vectorizer.fit_transform(known).T.tocsr()
    here = vectorizer.transform(asked)
    parts = [here[start : start + rows] @ there for start in range(0, len(asked), rows)]
    return np.concatenate([np.asarray(part.argmax(axis=1)).reshape(-1) for part in parts])


def translations(language: str) -> dict[str, dict[str, float]]:
    """BLEU and chrF of LibreOffice's help, from English."""
    corpus = LibreOfficeHelp((language,))
    train, test = corpus.pairs("train"), corpus.pairs("test")
    sources, references = [pair.source for pair in test], [pair.target for pair in test]
    places = nearest([pair.source for pair in train], sources)
    answers = {"the source": sources, "nearest neighbour": [train[i].target for i in places]}
    return {
        method: {"bleu": bleu(texts, references), "chrf": chrf(texts, references)}
        for method, texts in answers.items()
    }


def phonemes() -> dict[str, dict[str, float]]:
    """Phoneme error rate of the CMU dictionary, against the best listed variant."""
    train, test = Pronunciations().pairs("train"), Pronunciations().pairs("test")
    places = nearest([pair.source for pair in train], [pair.source for pair in test])
    answers = [train[i].target for i in places]
    rate = error_rate(answers, [pair.references for pair in test], words=True)
    return {"nearest neighbour": {"error_rate": float(rate.value)}}


def main() -> None:
    """Fits every method and writes what it reaches."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("digits", "breast_cancer", "diabetes"):
        train, test = split(name, "train"), split(name, "test")
        if name == "diabetes":
            scores = {
                method: float(np.abs(model.fit(*train).predict(test[0]) - test[1]).mean())
                for method, model in regressors().items()
            }
        else:
            scores = {
                method: float(model.fit(*train).score(*test))
                for method, model in classifiers().items()
            }
        found[name] = scores
    found["translation from English"] = {name: translations(name) for name in LANGUAGES}
    found["lstm_phonemes"] = phonemes()
    RESULTS.mkdir(exist_ok=True)
    today = datetime.date.today().isoformat()
    result = {"date": today, "results": found, "versions": versions(), "cpu": cpu()}
    write_json(RESULTS / "referees.json", result)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
