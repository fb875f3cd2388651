"""What collectives say when another rank is gone."""


def lost_a_rank(message: str) -> bool:
    """Whether an error message is one of gloo's or NCCL's about a rank that died or hangs."""
    signs = ("imed out", "imeout", "onnection closed", "onnection reset", "onnection refused", "roken pipe", "NCCL")
    return any(sign in message for sign in signs)
