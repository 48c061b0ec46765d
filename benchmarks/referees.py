"""Classical methods on the splits of the tabular experiments: what a network has to beat.

    python -m benchmarks.referees

Writes benchmarks/results/referees.json: accuracy on the test split (mean absolute error for
diabetes) of scikit-learn's methods with their default settings, but for what is written here.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from deeplearn.data.bundled import Bundled
from deeplearn.report.receipt import cpu, versions, write_json

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


def main() -> None:
    """Fits every method and writes what it reaches."""
    found: dict[str, dict[str, float]] = {}
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
    RESULTS.mkdir(exist_ok=True)
    today = datetime.date.today().isoformat()
    result = {"date": today, "results": found, "versions": versions(), "cpu": cpu()}
    write_json(RESULTS / "referees.json", result)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
