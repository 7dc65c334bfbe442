"""How much a feature tells: the accuracy of a fresh linear classifier that reads something from it."""

from __future__ import annotations

from torch import Tensor


def probe_accuracy(feature: Tensor, label: Tensor, group: Tensor) -> tuple[float, float]:
    """How well a fresh logistic regression reads the label: its accuracy, and that of the most frequent label.

    feature: [N, K]; label, group: int64 [N]. Fitted on three of four groups, tested on the fourth; NaN where there is
    no fourth group or a single label.
    """
    from sklearn.linear_model import LogisticRegression

    tested = group.unique(return_inverse=True)[1] % 4 == 3
    if not tested.any() or len(label[~tested].unique()) < 2:
        return float("nan"), float("nan")
    mean, deviation = feature[~tested].mean(0), feature[~tested].std(0, unbiased=False) + 1e-6
    scaled = ((feature - mean) / deviation).double().numpy()
    machine = LogisticRegression(C=0.01, max_iter=200).fit(scaled[~tested], label[~tested].numpy())
    accuracy = float((machine.predict(scaled[tested]) == label[tested].numpy()).mean())
    return accuracy, float((label[tested] == label[~tested].mode().values).float().mean())
