"""The drawings of each style as their packages hold them, and how they become pictures."""

import io
import json
from pathlib import Path, PurePosixPath

from PIL import Image

from data.decode import decode_image
from data.images import resize
from data.styles.concepts import has_tone, plain
from data.styles.packages import PICTURES, read

Drawing = str | bytes  # SVG, or a picture's file
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">{body}</svg>'
ICONS, CODES = "icons.json", "chars.json"
NEEDED = {"noto": (ICONS, CODES), "noto v1": (ICONS,), "fluent flat": (ICONS, CODES)}
ICON_SIDE = 16  # of an icon that states no size


def drawings(folder: Path) -> dict[str, dict[str, Drawing]]:
    """By style and code, from the packages in `folder`; without skin tones."""
    files = {style: read(folder, package, *NEEDED.get(style, ())) for style, package in PICTURES.items()}
    codes = {style: json.loads(files[style][CODES]) for style in ("noto", "fluent flat")}
    found: dict[str, dict[str, Drawing]] = {
        "noto": icons(files["noto"], codes["noto"]),
        "noto v1": icons(files["noto v1"], codes["noto"]),  # its own list has fewer codes than pictures
        "fluent flat": icons(files["fluent flat"], codes["fluent flat"]),
        "twemoji": {
            plain(PurePosixPath(name).stem): content.decode()
            for name, content in files["twemoji"].items()
            if name.endswith(".svg")
        },
    }
    found["fluent 3d"] = {
        code: content
        for name, content in files["fluent 3d"].items()
        if name.endswith(".webp") and (code := plain(PurePosixPath(name).stem)) in found["fluent flat"]
    }  # the package has others, which are not Microsoft's
    return {style: {code: each for code, each in found[style].items() if not has_tone(code)} for style in PICTURES}


def icons(files: dict[str, bytes], names: dict[str, str]) -> dict[str, Drawing]:
    """SVG by code from a set of icons (icons.json); `names`: code to the icon's name."""
    whole = json.loads(files[ICONS])
    found: dict[str, Drawing] = {}
    for code, name in names.items():
        if icon := whole["icons"].get(name):
            sides = [icon.get(side, whole.get(side, ICON_SIDE)) for side in ("width", "height")]
            box = " ".join(str(number) for number in (icon.get("left", 0), icon.get("top", 0), *sides))
            found[plain(code)] = SVG.format(box=box, body=icon["body"])
    return found


def render(drawing: Drawing, size: int) -> Image.Image:
    """A drawing as straight RGBA, size x size. ValueError if it cannot be rendered."""
    if isinstance(drawing, str):
        import resvg_py

        drawing = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=size, height=size, skip_system_fonts=True))
    image = decode_image(drawing, alpha=True)
    return image if image.size == (size, size) else resize(image, (size, size))


def as_png(image: Image.Image) -> bytes:
    """The picture as a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=6)
    return file.getvalue()


def check_renderer() -> None:
    """ValueError if the renderer of SVG is not installed."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "data.styles needs resvg-py; install it with: uv sync --inexact --extra styles, or pip install resvg-py"
        ) from error
