"""Which picture goes into which shard: a function of keys and settings, the same on every machine."""

import hashlib

from data.index.items import Item
from data.pack.settings import PackSettings

SHARD_IMAGES = 1000  # at most in a shard, by default
SHARDS = 16  # train shards are a multiple of it by default, as readers divide them into 8 or 16 streams


def lay_out(items: list[Item], settings: PackSettings) -> list[tuple[str, str, list[Item]]]:
    """(name, split, items) of each shard. The seed fixes the order, the source the splits.

    Items in train are divided further into train and val, by the hash of the key alone.
    """
    shuffled = sorted(items, key=lambda item: _hash(f"{settings.seed}/{item.key}"))[: settings.limit or None]
    splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for item in shuffled:
        is_val = item.split == "train" and held_out(item.key, settings.val)
        splits["val" if is_val else item.split].append(item)
    plan = []
    for split, rows in splits.items():
        num_shards = settings.shards if split == "train" else 0
        num = min(len(rows), num_shards or _num_shards(len(rows), split))
        for k in range(num):
            part = rows[k * len(rows) // num : (k + 1) * len(rows) // num]
            plan.append((f"{split}-{k:05d}.tar", split, part))
    return plan


def held_out(key: str, fraction: float) -> bool:
    """Whether `--val` moves a key to val: the same answer at every size, seed and selection of pictures."""
    return int(_hash(f"val/{key}")[:12], 16) < fraction * 16**12


def _num_shards(num: int, split: str) -> int:
    num_shards = -(-num // SHARD_IMAGES)
    return -(-num_shards // SHARDS) * SHARDS if split == "train" else num_shards


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
