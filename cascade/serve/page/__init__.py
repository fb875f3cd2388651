"""The page of the server: one document, one style sheet, a JavaScript module for each noun; a browser loads them as they are."""

from pathlib import Path

FOLDER = Path(__file__).parent
JAVASCRIPT = "text/javascript"
FILES = {  # of the folder, all that is served: name -> media type
    "index.html": "text/html",
    "page.css": "text/css",
    "address.js": JAVASCRIPT,
    "api.js": JAVASCRIPT,
    "brush.js": JAVASCRIPT,
    "card.js": JAVASCRIPT,
    "confirm.js": JAVASCRIPT,
    "controls.js": JAVASCRIPT,
    "deletion.js": JAVASCRIPT,
    "dom.js": JAVASCRIPT,
    "download.js": JAVASCRIPT,
    "error.js": JAVASCRIPT,
    "feed.js": JAVASCRIPT,
    "form.js": JAVASCRIPT,
    "history.js": JAVASCRIPT,
    "job.js": JAVASCRIPT,
    "key.js": JAVASCRIPT,
    "label.js": JAVASCRIPT,
    "large.js": JAVASCRIPT,
    "mask.js": JAVASCRIPT,
    "model.js": JAVASCRIPT,
    "negative.js": JAVASCRIPT,
    "next.js": JAVASCRIPT,
    "page.js": JAVASCRIPT,
    "picture.js": JAVASCRIPT,
    "rail.js": JAVASCRIPT,
    "region.js": JAVASCRIPT,
    "seed.js": JAVASCRIPT,
    "session.js": JAVASCRIPT,
    "settings.js": JAVASCRIPT,
    "shown.js": JAVASCRIPT,
    "shrink.js": JAVASCRIPT,
    "sight.js": JAVASCRIPT,
    "sse.js": JAVASCRIPT,
    "tabs.js": JAVASCRIPT,
    "tile.js": JAVASCRIPT,
    "upload.js": JAVASCRIPT,
    "view.js": JAVASCRIPT,
    "words.js": JAVASCRIPT,
}
ROUTES = {"/" if name == "index.html" else f"/{name}": name for name in FILES}  # path -> name
