"""Annealed conditions (CADS, Sadat et al. 2024): noise on a condition's features that goes to 0 as the levels fall.

Guidance makes the pictures of a condition alike; at high noise, where the layout is decided, a noisy condition says less.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..ask import Ask
from ..diffusion.guidance import annealed, clean_share
from ..diffusion.samplers import Noise, Query
from .direction import images_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Annealing:
    """Noise on the text of asks, new in every call of an image; shape (b, n, d) is that of the text of all images of the chunk.

    The noise of image k in its c-th call is a function of (k, c) alone, and all its asks of a call have the same.
    """

    scale: float
    levels: tuple[float, float]
    noise: Noise
    shape: tuple[int, ...]
    _calls: dict[int, int] = field(default_factory=dict)
    _drawn: dict[int, Tensor] = field(default_factory=dict)

    def noisy(self, ask: Ask) -> Ask:
        """The ask with noise on its text; an ask about the absence of conditions as it is."""
        text = ask.cond.parts.get("text")
        shares = [clean_share(sigma, self.levels) for sigma in ask.query.sigma.tolist()]
        if text is None or ask.second or min(shares, default=1.0) == 1:
            return ask
        eps = torch.stack([self._eps(image) for image in images_of(ask.query)])
        value = annealed(text.value, eps.to(text.value), shares, self.scale)
        parts = {**ask.cond.parts, "text": replace(text, value=value)}
        return replace(ask, cond=replace(ask.cond, parts=parts))

    def answered(self, query: Query) -> None:
        """Go on to the next call of the images of a query."""
        self._drawn.clear()
        for image in images_of(query):
            self._calls[image] = self._calls.get(image, 0) + 1

    def _eps(self, image: int) -> Tensor:
        call = self._calls.get(image, 0)
        if call not in self._drawn:
            self._drawn[call] = self.noise(f"anneal/{call}", self.shape)
        return self._drawn[call][image]
