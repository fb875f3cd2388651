"""Decode captions, the same way for files beside pictures, members of tars and metadata.

UTF-8 with or without a byte-order mark and UTF-16 with one are read. Anything else is a `ValueError` whose text before
the colon is the same for all captions with that fault: guessing a code page would silently train wrong words.
"""

import codecs

MAX_CAPTION_BYTES = 2**18  # of one caption
TEXT_TOKENS = 32  # to which captions are cut before they are encoded: the default of --text-tokens


def decode_caption(content: bytes) -> str:
    """The caption in the bytes of a file or member, without surrounding white space."""
    if len(content) > MAX_CAPTION_BYTES:
        raise ValueError(f"caption too long: {len(content):,} bytes, at most {MAX_CAPTION_BYTES:,}")
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"caption is neither UTF-8 nor UTF-16 with its mark: {error.reason} at byte {error.start}"
        ) from error
    return check_caption(text)


def check_caption(text: str) -> str:
    """A caption that is already text, without surrounding white space; ValueError for NUL, lone surrogates, over MAX_BYTES."""
    if "\0" in text:  # UTF-16 without its mark, UTF-32, or no text at all
        raise ValueError("caption holds NUL characters: save it as UTF-8")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"caption holds half a character: {text[error.start]!r} at {error.start}") from error
    if size > MAX_CAPTION_BYTES:
        raise ValueError(f"caption too long: {size:,} bytes, at most {MAX_CAPTION_BYTES:,}")
    return text.strip()


def encoding_of(head: bytes) -> str:
    """The encoding that a text's first bytes announce: UTF-16 by its mark, else UTF-8, whose mark is dropped."""
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
