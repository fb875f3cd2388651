"""Token features of captions, added to samples on their way into a shard."""

import io
import json
from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np

from data.decode import decode_captions
from data.index import TextInfo
from data.pack.kinds import encoded
from data.pack.settings import PackSettings
from data.tar import CAPTIONS_MEMBER, FEATURES_MEMBER, TEXT_MEMBER, Sample, why_not

GROUP = 256  # samples whose captions are encoded together

Keyed = tuple[str, Sample]


class Texts:
    """Adds to each sample the token features of its caption or captions, if there is an encoder."""

    def __init__(self, settings: PackSettings, device: str):
        from data.text import TextEncoder

        name = settings.text_encoder
        self.encoder = TextEncoder.load(name, device, max_tokens=settings.text_tokens) if name else None

    @property
    def info(self) -> TextInfo | None:
        """The encoder as the index names it."""
        encoder = self.encoder
        return TextInfo(id=encoder.id, dim=encoder.dim, max_tokens=encoder.max_tokens) if encoder else None

    def added(self, samples: Iterator[Keyed], skip: Callable[[str, str], None]) -> Iterator[Keyed]:
        """The samples of a shard with their features: of several captions, only those of texts that none before has.

        skip: called with the reason and the name of a picture that is left out, as its captions exceed the limit of a member.
        """
        if self.encoder is None:
            yield from samples
            return
        known: set[str] = set()
        while group := list(islice(samples, GROUP)):
            yield from self._several(group, known, skip) if CAPTIONS_MEMBER in group[0][1] else self._single(group)

    def _single(self, group: list[Keyed]) -> Iterator[Keyed]:
        assert self.encoder
        texts = [sample["txt"].decode() for _, sample in group]
        for (key, sample), tokens in zip(group, self.encoder.encode(texts), strict=True):
            yield key, sample | {TEXT_MEMBER: _npy(tokens)}

    def _several(self, group: list[Keyed], known: set[str], skip: Callable[[str, str], None]) -> Iterator[Keyed]:
        assert self.encoder
        captions = [decode_captions(sample[CAPTIONS_MEMBER]) for _, sample in group]
        new = list(dict.fromkeys(text for each in captions for text in chain(*each) if text not in known))
        features = dict(zip(new, self.encoder.encode(new), strict=True))
        nothing = np.zeros((0, self.encoder.dim), np.float16)
        for (key, sample), each in zip(group, captions, strict=True):
            own = {text: features[text] for text in chain(*each) if text not in known}
            members = {
                CAPTIONS_MEMBER: encoded(each, {text: len(tokens) for text, tokens in own.items()}),
                FEATURES_MEMBER: _npy(np.concatenate([nothing, *own.values()])),
            }
            if reasons := [f"{ext} {why}" for ext, content in members.items() if (why := why_not(ext, len(content)))]:
                skip("captions too large", f"{json.loads(sample['json'])['source']} ({reasons[0]})")
                continue  # the next picture that has its texts brings their features
            known |= own.keys()
            yield key, sample | members


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()
