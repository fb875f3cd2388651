"""What is found in a folder: sizes, turned pictures, transparency, copies, thumbnails, near duplicates."""

import shutil

import numpy as np
from PIL import Image

from cascade.folder.survey import listed, listing_sha256, survey
from data.index.items import Choices
from tests.folder.pictures import fill, picture

AS_IT_IS = Choices()


def test_a_plain_folder(tmp_path):
    found = survey(fill(tmp_path / "a", 12), AS_IT_IS)
    assert [seen.size for seen in found.kept] == [(80, 80)] * 12
    assert found.line() == "read as plain without captions; 12 pictures kept; none dropped; 0 much like another one"


def test_originals_beside_their_thumbnails(tmp_path):
    """The small one goes, whichever comes first by name; a crop of another shape and a picture of its own stay."""
    folder = fill(tmp_path / "a", 12, (320, 240))
    picture(0, (320, 240)).resize((80, 60), Image.Resampling.LANCZOS).save(folder / "0000_thumb.jpg", quality=90)
    picture(1, (320, 240)).resize((64, 48), Image.Resampling.LANCZOS).save(folder / "00.png")
    picture(2, (320, 240)).crop((0, 0, 160, 160)).save(folder / "crop.png")
    found = survey(folder, AS_IT_IS)
    assert sorted(found.dropped["there larger, too"]) == ["00.png", "0000_thumb.jpg"]
    assert len(found.kept) == 13
    assert "2 there larger, too (" in found.line()


def test_copies_and_near_duplicates(tmp_path):
    """A copy of the bytes goes, one with another caption stays; a picture with a little noise is counted and stays."""
    folder = fill(tmp_path / "a", 12)
    shutil.copy(folder / "0000.png", folder / "copy.png")
    noisy = np.asarray(picture(5), dtype=np.int16) + np.random.default_rng(0).integers(-9, 10, (80, 80, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "noisy.png")
    found = survey(folder, AS_IT_IS)
    assert found.dropped == {"exact copies": ["copy.png"]}
    assert found.near == 2
    (folder / "0000.txt").write_text("one thing")
    (folder / "copy.txt").write_text("another name of it")
    assert "exact copies" not in survey(folder, AS_IT_IS).dropped


def test_what_cannot_be_read_is_named(tmp_path):
    folder = fill(tmp_path / "a", 12)
    (folder / "broken.png").write_bytes((folder / "0000.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("no picture")
    found = survey(folder, AS_IT_IS)
    assert len(found.kept) == 12
    assert sorted(name for names in found.dropped.values() for name in names) == ["broken.png", "text.jpg"]


def test_turned_pictures(tmp_path):
    """EXIF turns the size, too."""
    folder = fill(tmp_path / "a", 12)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(77, (120, 80)).save(folder / "turned.jpg", exif=exif)
    found = survey(folder, AS_IT_IS)
    assert [seen.size for seen in found.kept if seen.turned] == [(120, 80)]
    assert "1 turned upright by EXIF" in found.line()


def test_transparency_is_seen_where_it_is_real(tmp_path):
    """An alpha channel that is opaque throughout is none."""
    folder = fill(tmp_path / "a", 10)
    picture(50).convert("RGBA").save(folder / "opaque.png")
    picture(51, alpha=True).save(folder / "real.png")
    assert [seen.item.name for seen in survey(folder, AS_IT_IS).kept if seen.transparent] == ["real.png"]


def test_a_listing_changes_with_its_folder(tmp_path):
    folder = fill(tmp_path / "a", 12)
    before = listing_sha256(listed(folder, AS_IT_IS))
    assert listing_sha256(listed(folder, AS_IT_IS)) == before
    (folder / "0000.txt").write_text("a caption")
    assert listing_sha256(listed(folder, AS_IT_IS)) != before
