"""Captions of a folder's pictures: of its metadata.jsonl, else of what sample.py wrote into each PNG."""

import json
from pathlib import Path

TABLE = "metadata.jsonl"
COLUMNS = ("text", "caption")


def captions_of(folder: Path) -> dict[str, str]:
    """File name to caption, of the table at the top of a folder; empty without one. Raises ValueError for a broken line."""
    path = folder / TABLE
    if not path.is_file():
        return {}
    captions = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ValueError(f"{path} line {number} is no JSON with a file_name; mend or remove the line") from None
        text = next((row[column] for column in COLUMNS if isinstance(row.get(column), str)), "")
        captions[str(name)] = text.strip()
    return captions


def written_caption(path: Path) -> str:
    """The prompt of one picture of sample.py or of a server; "" of other files."""
    if path.suffix.lower() != ".png":
        return ""
    from cascade.output.pictures import read_metadata

    try:
        prompts = read_metadata(path).get("prompts")
    except (ValueError, OSError):
        return ""
    return prompts[0] if isinstance(prompts, list) and len(prompts) == 1 and isinstance(prompts[0], str) else ""
