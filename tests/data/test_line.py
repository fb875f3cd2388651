"""A line and its end are one write."""

import io
import signal

import pytest

from data.line import say, say_in_handler
from tests.told import Told


def test_a_stop_comes_never_between_a_line_and_its_end():
    """What a command says after a stop, how to go on, begins a line of its own."""

    class Late(io.StringIO):
        def write(self, text: str) -> int:
            num = super().write(text)
            if text.startswith("images"):
                raise KeyboardInterrupt
            return num

    stream = Late()
    with pytest.raises(KeyboardInterrupt):
        say("images 4 to 5 done", stream)
    say("the same command goes on", stream)
    assert stream.getvalue() == "images 4 to 5 done\nthe same command goes on\n"


def test_what_the_encoding_lacks_is_escaped(tmp_path):
    path = tmp_path / "said"
    with path.open("w", encoding="ascii") as stream:
        say("a b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher", stream)
    assert path.read_text() == "a b\\xfccher\n"


def test_a_handler_writes_in_the_midst_of_a_write(tmp_path):
    """Through the stream it cannot: RuntimeError, reentrant call, wherever the signal came."""
    with io.TextIOWrapper(io.BufferedWriter(Told(tmp_path / "said")), encoding="utf-8") as stream:
        before = signal.signal(signal.SIGUSR1, lambda *_: say_in_handler("stop", stream))
        try:
            say("images 4 to 5 done", stream)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "said").read_text() == "stop\nimages 4 to 5 done\n"


def test_a_handler_without_a_stream_goes_on(tmp_path):
    """stderr may be closed, or missing from the start: a handler that raised would end what it has to save."""
    with (tmp_path / "said").open("w") as stream:
        pass
    say_in_handler("stop", stream)
    say_in_handler("stop", None)
    assert (tmp_path / "said").read_text() == ""
