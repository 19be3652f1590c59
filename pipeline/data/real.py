"""Small measured data sets that come with scikit-learn; nothing is downloaded."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pipeline.config.types import Fraction
from pipeline.data.prepare import Made, Share, Stream, prepared


def diabetes(
    stream: Stream,
    *,
    validation: Fraction,
    test: Share,
    standardise: bool,
    standardise_target: bool,
) -> Made:
    """442 patients, 10 measurements; the target is the disease's progression after a year (25–346).

    The raw measurements, not those that scikit-learn has already scaled with all rows' statistics.
    Source: B. Efron et al., "Least angle regression", Annals of Statistics 32 (2004).
    """
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    return prepared(
        stream,
        table.data.astype(np.float64),
        table.target.astype(np.float64)[:, None],
        names=table.feature_names,
        targets=["progression"],
        validation=validation,
        test=test,
        standardise=standardise,
        standardise_target=standardise_target,
    )


def breast_cancer(stream: Stream, *, validation: Fraction, test: Share, standardise: bool) -> Made:
    """569 tumours, 30 measurements of cell nuclei, 2 classes: malignant (0) and benign (1).

    Source: W. Street, W. Wolberg and O. Mangasarian, "Nuclear feature extraction for breast tumor
    diagnosis" (1993).
    """
    from sklearn.datasets import load_breast_cancer

    split = {"validation": validation, "test": test, "standardise": standardise}
    return _classes(stream, load_breast_cancer(), **split)


def wine(stream: Stream, *, validation: Fraction, test: Share, standardise: bool) -> Made:
    """178 wines, 13 chemical measurements, 3 classes: the growers.

    Source: M. Forina et al., "PARVUS" (1988).
    """
    from sklearn.datasets import load_wine

    split = {"validation": validation, "test": test, "standardise": standardise}
    return _classes(stream, load_wine(), **split)


def digits(
    stream: Stream,
    *,
    layout: Literal["vector", "image", "rows"],
    validation: Fraction,
    test: Share,
    standardise: bool,
) -> Made:
    """1797 handwritten digits of 8×8 pixels, 10 classes; the pixels' 0..16 is divided by 16.

    A sample is 64 values (``vector``), height × width × 1 channel (``image``), or a sequence of 8
    rows of 8 pixels (``rows``).
    Source: E. Alpaydin and C. Kaynak, "Cascading classifiers", Kybernetika 34 (1998).
    """
    from sklearn.datasets import load_digits

    table = load_digits()
    table.data = table.data / 16.0
    arrays, facts = _classes(
        stream, table, validation=validation, test=test, standardise=standardise
    )
    shape = {"vector": (64,), "image": (8, 8, 1), "rows": (8, 8)}[layout]
    for name in [name for name in arrays if name.startswith("x_")]:
        arrays[name] = arrays[name].reshape(-1, *shape)
    return arrays, facts


def _classes(stream: Stream, table: Any, **split: Any) -> Made:
    """Prepare one of scikit-learn's sets of classes."""
    return prepared(
        stream,
        table.data.astype(np.float64),
        table.target.astype(np.int64)[:, None],
        names=list(table.feature_names),
        targets=["class"],
        labels=[str(label) for label in table.target_names],
        **split,
    )
