"""The finished pictures of a store, read beside a server that may be running: nothing is locked, repaired or expired."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

INDEX = "index.sqlite"
QUERY = """
select jobs.id as job, request, k, file from pictures join jobs on jobs.id = job
where state = 'finished' and (? = '' or jobs.id = ?) and stage = (
    select stage from pictures as last where last.job = jobs.id order by last.rowid desc limit 1
) order by created, jobs.id, k
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """Picture k of a finished job. prompt: "" of an unconditional one. path: of its PNG, which may have expired meanwhile."""

    job: str
    k: int
    prompt: str
    path: Path


def history(folder: Path, job: str = "") -> Iterator[Made]:
    """The last stage's pictures of all finished jobs, or of one, oldest first. Raises ValueError for what is no store."""
    path = folder / INDEX
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as index:
            rows = index.execute(QUERY, (job, job)).fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"{path}: no index of a server's store can be read ({error}); name its --store") from None
    for name, text, k, file in rows:
        request = json.loads(text)
        prompts, num = request.get("prompts") or [""], request.get("num") or 1
        yield Made(job=name, k=k, prompt=prompts[k // num % len(prompts)], path=folder / "pictures" / file)
