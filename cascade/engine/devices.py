"""Devices that users name (`auto`, `cpu`, `cuda`, `cuda:1`), checked against those of this machine."""

import torch


def choose_device(said: str) -> str:
    """One device; auto is the first GPU, else the CPU. Raises ValueError for one that does not exist."""
    return choose_devices(said)[0] if said != "cuda" else known("cuda")


def choose_devices(said: str) -> list[str]:
    """Devices separated by commas, in order, without repeats; auto and cuda mean all GPUs, auto the CPU if there are none. Raises
    ValueError."""
    num = torch.cuda.device_count()
    if said == "auto":
        return [f"cuda:{k}" for k in range(num)] or ["cpu"]
    if said == "cuda":
        known(said)
        return [f"cuda:{k}" for k in range(num)]
    return list(dict.fromkeys(known(part.strip()) for part in said.split(",")))


def known(device: str, option: str = "--device ") -> str:
    """The device as cpu or cuda:NUMBER. option: begins messages. Raises ValueError for one that does not exist."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or not (device == kind or (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"{option}{device}: allowed are auto, cpu, cuda and cuda:NUMBER")
    num = torch.cuda.device_count()
    if kind == "cuda" and not num:
        raise ValueError(f"{option}{device}: no GPU is visible to torch; take cpu")
    if kind == "cuda" and int(number or 0) >= num:
        raise ValueError(f"{option}{device}: there are {num} GPUs, cuda:0 to cuda:{num - 1}")
    return f"cuda:{int(number or 0)}" if kind == "cuda" else device


def parse_place(said: list[str]) -> dict[str, str]:
    """Parse ["sr_256=cuda:1"] to {"sr_256": "cuda:1"}; `Cascade.load` checks the names. Raises ValueError."""
    devices = {}
    for assignment in said:
        stage, _, device = assignment.partition("=")
        if not (stage and device):
            raise ValueError(f"--place {assignment}: write STAGE=DEVICE, for instance sr_256=cuda:1")
        devices[stage] = known(device, f"--place {stage}=")
    return devices
