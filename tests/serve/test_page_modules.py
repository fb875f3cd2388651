"""The page's files: one list names all that is served; its modules import each other by relative names and in no circle."""

import re
from graphlib import TopologicalSorter

import pytest

from cascade.serve import page
from cascade.serve.api.answers import tag_of
from cascade.serve.http.guard import PUBLIC
from tests.serve.serving import Client

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MODULES = sorted(name for name in page.FILES if name.endswith(".js"))
IMPORT = re.compile(r"^import\b.*|\bimport\(.*|^export [*{].*", re.MULTILINE)
NAMED = re.compile(r'import { ([\w$, ]+) } from "\./([\w-]+\.js)";')
EXPORT = re.compile(r"^export (?:async )?(?:const|let|function\*?|class) ([\w$]+)", re.MULTILINE)


def text(name: str) -> str:
    return (page.FOLDER / name).read_text()


def imports(name: str) -> list[tuple[list[str], str]]:
    """(names, file) of each import of a module; there are no others than `import { NAMES } from "./FILE";`."""
    lines = IMPORT.findall(text(name))
    found = [NAMED.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(each[1].split(", "), each[2]) for each in found if each]


def test_the_list_is_the_folder():
    found = {path.name: KINDS[path.suffix] for path in page.FOLDER.iterdir() if path.suffix in KINDS}
    assert found == page.FILES
    assert set(page.ROUTES.values()) == set(page.FILES)
    assert set(page.ROUTES) <= PUBLIC


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_files_of_the_list(name: str):
    for names, source in imports(name):
        assert source in MODULES
        assert set(names) <= set(EXPORT.findall(text(source))), source


def test_imports_have_no_circle_and_all_modules_are_reached():
    graph = {name: [source for _, source in imports(name)] for name in MODULES}
    TopologicalSorter(graph).prepare()
    scripts = re.findall(r'<script type="module" src="([^"]+)"></script>', text("index.html"))
    assert text("index.html").count("<script") == len(scripts) == 1
    reached, todo = set(), scripts
    while todo:
        reached.add(name := todo.pop())
        todo += set(graph[name]) - reached
    assert reached == set(MODULES)


@pytest.mark.parametrize("route", page.ROUTES)
def test_each_file_is_served_with_its_media_type_and_a_304(client: Client, route: str):
    name = page.ROUTES[route]
    whole = client.get(route)
    assert whole.status_code == 200
    assert whole.content == (page.FOLDER / name).read_bytes()
    assert whole.headers["content-type"] == f"{page.FILES[name]}; charset=utf-8"
    assert whole.headers["cache-control"] == "no-cache"
    assert whole.headers["etag"] == tag_of(whole.content)
    assert whole.headers["content-security-policy"].startswith("default-src 'self';")
    same = client.get(route, headers={"if-none-match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    for header in ("etag", "cache-control", "content-security-policy"):
        assert same.headers[header] == whole.headers[header]
    assert client.get(route, headers={"if-none-match": '"another"'}).content == whole.content
    assert client.head(route).headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize("path", ["/screenshot.png", "/__init__.py", "/index.html", "/page/page.js", "/none.js"])
def test_nothing_else_of_the_folder_is_served(client: Client, path: str):
    assert client.get(path).status_code == 404
