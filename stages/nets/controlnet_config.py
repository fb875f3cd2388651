"""The config of a control net: which frozen bundle it stands beside."""

from typing import Annotated

from pydantic import Field

from ..strict import Strict


class ControlNetConfig(Strict):
    """base: folder of the frozen bundle; in a bundle, the folder that holds a copy of it. sha256: of its weights; train.py finds it
    out where it is not given."""

    base: str
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
