"""Captions in the encodings that people's tools write."""

import codecs

import pytest

from data.captions import MAX_CAPTION_BYTES, decode_caption

TEXT = "a café, 🍎"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        f"  {TEXT}\r\n".encode(),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16-le", "utf-16-be", "white space"],
)
def test_encodings_that_say_what_they_are(content):
    assert decode_caption(content) == TEXT


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"it\x92s a caf\xe9", r"neither UTF-8 nor UTF-16 with its mark: invalid start byte at byte 2"),
        (codecs.BOM_UTF16_LE + b"odd", "neither UTF-8 nor UTF-16"),
        (TEXT.encode("utf-16-le"), "caption (is neither|holds NUL)"),
        ("plain".encode("utf-16-le"), "caption holds NUL characters"),
        ("plain".encode("utf-32"), "caption holds NUL characters"),
        (b"x" * (MAX_CAPTION_BYTES + 1), "caption too long: 262,145 bytes, at most 262,144"),
        (codecs.BOM_UTF16_LE + "語".encode("utf-16-le") * 100_000, "caption too long: 300,000 bytes"),
    ],
)
def test_others_are_refused_never_guessed(content, says):
    with pytest.raises(ValueError, match=says):
        decode_caption(content)
