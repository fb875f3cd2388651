"""A line and its end are one write."""

import io

import pytest

from data.line import say


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
