"""Checks before the first update: data that fit the network, batches that divide, requirements of the objective."""

import math
from pathlib import Path

from data.index import Index
from data.read.mixture import MixtureLike, facts
from data.read.shards import Reader
from data.read.streams import largest_divisor

from ..config import StageConfig, TextConfig
from .engine import check_optimizer


def checked_reader(
    config: StageConfig,
    data: MixtureLike,
    *,
    rank: int,
    world: int,
    held: MixtureLike | None = None,
    elementwise: bool = False,
) -> tuple[Reader, int]:
    """Check everything that can be wrong before training begins; return this rank's reader and its micro-batch.

    held: other data to validate on; elementwise: the optimizer will get flattened weights. Raises ValueError, OSError.
    """
    micro = micro_batch(config, world)
    check_data(config, facts(data))
    reader = make_reader(config, data, rank=rank, world=world)
    if held:
        check_held_out(config, reader.index, facts(held))
    check_optimizer(config.train, elementwise=elementwise)
    config.train.objective.build().check(config)
    return reader, micro


def make_reader(config: StageConfig, data: MixtureLike, *, rank: int, world: int) -> Reader:
    """Make the reader of one rank."""
    return Reader(
        places=data,
        batch=config.train.batch,
        resolution=config.resolution,
        seed=config.train.seed,
        streams=config.train.streams,
        rank=rank,
        world=world,
        workers=config.train.workers,
        label=config.cond.num_classes > 0,
        text_tokens=config.cond.text.tokens if config.cond.text else 0,
        maps=config.cond.maps is not None,
        original_sizes=config.cond.original_size is not None,
    )


def check_data(config: StageConfig, index: Index) -> None:
    """Check that the data describe their pictures with what the network takes (text, classes, channels). Raises ValueError."""
    text, packed = config.cond.text, index.text_encoder
    if text and packed:
        name = Path(packed.id.rpartition("-")[0]).name
        if name != Path(text.encoder).name or packed.dim != text.dim:
            raise ValueError(
                f"data: text features are {packed.id} with {packed.dim} numbers a token, cond.text asks for "
                f"{text.encoder} with {text.dim}; change cond.text, or pack with --text-encoder {text.encoder}"
            )
        if packed.max_tokens != text.packed_tokens:
            raise ValueError(
                f"data: captions were cut to {packed.max_tokens} tokens before they were encoded, cond.text.packed_tokens is "
                f"{text.packed_tokens}; pack with --text-tokens {text.packed_tokens}, or {_packed_so(text, packed.max_tokens)}"
            )
    if config.cond.num_classes and config.cond.num_classes != len(index.classes or ()):
        raise ValueError(
            f"data: {len(index.classes or ())} classes, cond.num_classes is {config.cond.num_classes}; "
            f"set it to {len(index.classes or ())}"
        )
    check_maps(config, index)
    if config.channels != index.channels:
        raise ValueError(
            f"data: pictures have {index.channels} channels, channels is {config.channels}; set it to {index.channels}"
        )


def check_maps(config: StageConfig, index: Index) -> None:
    """Check that the maps of the data, if there are any, have the channels that the network takes. Raises ValueError."""
    if config.cond.maps and index.maps and index.maps != config.cond.maps.channels:
        raise ValueError(
            f"data: maps have {index.maps} channels, cond.maps.channels is {config.cond.maps.channels}; set it to {index.maps}"
        )


def _packed_so(text: TextConfig, tokens: int) -> str:
    """The advice for data packed at `tokens`."""
    suffix = f" and tokens to {tokens} or less" if tokens < text.tokens else ""
    return f"set packed_tokens to {tokens}{suffix}"


def check_held_out(config: StageConfig, index: Index, held: Index) -> None:
    """Check that held-out data describe their pictures like the training data. Raises ValueError."""
    check_data(config, held)
    if (encoder := text_encoder_id(config, index)) != (val_encoder := text_encoder_id(config, held)):
        raise ValueError(
            f"--val-data: text features are {val_encoder}, --data has {encoder}; pack both with one --text-encoder"
        )
    if config.cond.num_classes and index.classes != held.classes:
        raise ValueError("--val-data numbers its classes otherwise than --data; pack both from one list of classes")


def micro_batch(config: StageConfig, world: int) -> int:
    """Images of one forward pass of one rank. Raises ValueError if it does not divide the rank's share of the batch."""
    batch, micro = config.train.batch, config.train.micro_batch
    if batch % world:
        unit = math.lcm(world, config.train.streams)
        raise ValueError(
            f"train.batch {batch} cannot be shared by {world} processes; set train.batch={unit * -(-batch // unit)}, "
            f"or start {largest_divisor(batch, world)}"
        )
    rank_batch = batch // world
    if micro is None:
        return rank_batch
    if rank_batch % micro:
        raise ValueError(
            f"train.micro_batch {micro} does not divide {rank_batch} = batch {batch} / {world} processes; "
            f"set train.micro_batch={largest_divisor(rank_batch, micro)}"
        )
    return micro


def text_encoder_id(config: StageConfig, index: Index) -> str | None:
    """Identity of the text encoder in the data's index, or None if the stage uses no text."""
    return index.text_encoder.id if config.cond.text and index.text_encoder else None
