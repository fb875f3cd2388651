"""One thing in five drawing styles: emoji from pinned packages, as pictures with captions and a split that hides drawings."""
