"""An image-text encoder (CLIP, Radford et al. 2021; SigLIP, Zhai et al. 2023) from a local folder of transformers.

Only safetensors are read, no code of the folder runs, and nothing is fetched. Pictures and captions become unit vectors
(n, d), whose products are cosines.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.judge.pictures import BATCH, check_pictures
from data.files import file_sha256


class ImageTextEncoder:
    """The frozen encoder on a device."""

    def __init__(self, model: Any, processor: Any, sha256: str, device: str):
        self._model, self._processor, self._device = model.to(device), processor, device
        self.sha256 = sha256

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Load the folder. Raises ValueError for one that is missing, lacks safetensors, or encodes not both pictures and texts."""
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} is no folder of an image-text encoder (no config.json in it); name one of transformers"
            )
        import transformers

        transformers.utils.logging.disable_progress_bar()
        try:
            model = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            cause = " ".join(str(error).split())[:200]
            raise ValueError(f"{folder}: no model with safetensors, processor and tokenizer ({cause})") from None
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise ValueError(
                f"{folder}: a {model.config.model_type} does not encode both pictures and texts; take CLIP or SigLIP"
            )
        return cls(model.eval().requires_grad_(False), processor, _sha256(folder), device)

    @torch.inference_mode()
    def pictures(self, pictures: Tensor) -> Tensor:
        """(n, d) float64 of RGB pictures uint8 (n, 3, h, w), resized as the folder says."""
        check_pictures(pictures, "encoder")
        parts = []
        for part in pictures.split(BATCH):
            given = self._processor.image_processor(
                images=list(part), return_tensors="pt", input_data_format="channels_first"
            )
            parts.append(_unit(self._model.get_image_features(pixel_values=given["pixel_values"].to(self._device))))
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, d) float64 of captions, cut and padded to the length that the model was trained at."""
        tokenizer, parts = self._processor.tokenizer, []
        longest = min(tokenizer.model_max_length, self._model.config.text_config.max_position_embeddings)
        how = {"padding": "max_length", "truncation": True, "max_length": longest, "return_tensors": "pt"}
        for start in range(0, len(texts), BATCH):
            given = tokenizer(list(texts[start : start + BATCH]), **how).to(self._device)
            parts.append(_unit(self._model.get_text_features(**given)))
        return torch.cat(parts)


def _unit(found: Any) -> Tensor:
    features = getattr(found, "pooler_output", found)  # transformers 4 gives the tensor itself
    return F.normalize(features.double(), dim=1).cpu()


def _sha256(folder: Path) -> str:
    """Over all that vectors depend on: weights, tokenizer, and how pictures are resized."""
    digest = hashlib.sha256()
    for path in sorted(each for kind in ("*.safetensors", "*.json", "*.txt", "*.model") for each in folder.glob(kind)):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
