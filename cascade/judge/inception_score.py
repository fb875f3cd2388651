"""Inception score of a classifier's logits; Salimans et al. 2016."""

import torch
from torch import Tensor

from cascade.judge.features import check_enough, check_features


def inception_score(logits: Tensor) -> float:
    """exp(H(mean p) - mean H(p)) for logits (n, classes), over all n at once; between 1 and the number of classes.

    Needs ten samples a class, since the entropy of the mean is biased downwards by about classes / 2n.
    """
    logits = check_features(logits, "logits")
    check_enough(len(logits), logits.shape[1], "logits")
    p = logits.softmax(dim=1)
    conditional = torch.special.entr(p).sum(dim=1).mean()
    return (torch.special.entr(p.mean(dim=0)).sum() - conditional).exp().item()
