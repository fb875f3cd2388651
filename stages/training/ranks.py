"""What collectives say when another rank is gone."""


def lost_a_rank(message: str) -> bool:
    """Whether an error message is one of gloo's or NCCL's about a rank that died or hangs."""
    patterns = ("imed out", "imeout", "onnection closed", "onnection reset", "onnection refused", "roken pipe", "NCCL")
    return any(pattern in message for pattern in patterns)
