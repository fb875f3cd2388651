"""Moments in .npz files: ours (mean, cov, num, ruler, sha256), and those of ADM and pytorch-fid (mu, sigma).

Nothing in a file is executed (`allow_pickle=False`), and no array is read before its size is checked.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from cascade.judge.moments import Moments, Ruler
from data.files import replace_bytes

MAX_DIMENSIONS = 16_384
MAX_ARRAY_BYTES = 8 * MAX_DIMENSIONS**2 + 1024  # of an array: float64 and its header


def save_moments(path: Path, moments: Moments) -> None:
    """Write a file of ours, whole or not at all; N and ruler must be known. Raises ValueError, OSError."""
    if moments.num is None or moments.ruler is None:
        raise ValueError(f"{path}: N and the ruler are needed in a statistics file; these moments lack one")
    content = io.BytesIO()
    np.savez(
        content,
        mean=moments.mean.numpy(force=True),
        cov=moments.cov.numpy(force=True),
        num=np.array(moments.num),
        ruler=np.array(moments.ruler.name),
        sha256=np.array(moments.ruler.sha256),
    )
    replace_bytes(path, content.getvalue())


def load_moments(path: Path, ruler: Ruler | None = None) -> Moments:
    """Read a file of any of the three kinds; where it tells its ruler, that must be `ruler`, if given.

    Raises ValueError in one line, OSError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        with np.load(path, allow_pickle=False) as arrays:
            moments = _moments(path, arrays, sizes)
    except (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{path}: no .npz file, or damaged ({error}); write it again") from None
    if ruler and moments.ruler and moments.ruler.sha256 != ruler.sha256:
        raise ValueError(
            f"{path}: measured by {moments.ruler.name} ({moments.ruler.sha256[:12]}), not by {ruler.name} "
            f"({ruler.sha256[:12]}); compute it with that ruler"
        )
    return moments


def _moments(path: Path, arrays: np.lib.npyio.NpzFile, sizes: dict[str, int]) -> Moments:
    names = ("mean", "cov") if "mean" in sizes else ("mu", "sigma")
    ours = names[0] == "mean"
    needed = (*names, "num", "ruler", "sha256") if ours else names
    if missing := [name for name in needed if name not in sizes]:
        has = ", ".join(sorted(sizes)[:8]) or "nothing"
        raise ValueError(
            f"{path}: holds {has}, lacks {', '.join(missing)}; a statistics file has mean, cov, num, ruler, sha256 "
            "(ours) or mu, sigma (ADM, pytorch-fid)"
        )
    if large := [name for name in needed if sizes[name] > MAX_ARRAY_BYTES]:
        raise ValueError(f"{path}: {large[0]} takes {sizes[large[0]]:,} bytes; at most {MAX_ARRAY_BYTES:,} are read")
    mean, cov = (_array(path, arrays, name) for name in names)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not len(mean):
        raise ValueError(f"{path}: {names[0]} is {mean.shape}, {names[1]} {cov.shape}; (d,) and (d, d) are needed")
    for name, each in zip(names, (mean, cov), strict=True):
        if each.dtype.kind != "f" or not np.isfinite(each).all():
            raise ValueError(f"{path}: {name} ({each.dtype}) is not finite floating numbers; compute it again")
    if not np.allclose(cov, cov.T, rtol=1e-4, atol=1e-6 * float(np.abs(cov).max())) or cov.diagonal().min() < 0:
        raise ValueError(f"{path}: {names[1]} is no covariance (not symmetric, or a negative variance)")
    num, ruler = _origin(path, arrays) if ours else (None, None)
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    return Moments(mean=torch.from_numpy(mean), cov=torch.from_numpy((cov + cov.T) / 2), num=num, ruler=ruler)


def _origin(path: Path, arrays: np.lib.npyio.NpzFile) -> tuple[int, Ruler]:
    num, name, sha256 = (_array(path, arrays, each) for each in ("num", "ruler", "sha256"))
    if num.shape or num.dtype.kind not in "iu" or num < 2:
        raise ValueError(f"{path}: num is {num.dtype} {num.shape}; one whole number of at least 2 is needed")
    if name.shape or sha256.shape or {name.dtype.kind, sha256.dtype.kind} != {"U"}:
        raise ValueError(f"{path}: ruler and sha256 are not one text each; write the file again")
    return int(num), Ruler(name=str(name), sha256=str(sha256))


def _array(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """One array; numpy raises ValueError for objects, which only pickle reads, and for a damaged header."""
    try:
        return np.asarray(arrays[name])
    except (ValueError, MemoryError) as error:  # the latter: a header that claims more than the file holds
        raise ValueError(f"{path}: {name} cannot be read ({' '.join(str(error).split())})") from None
