"""Folders that commands write into."""

import pytest

from data.files import make_folder
from data.pack import __main__ as packing
from data.shapes import write_folder
from data.styles import __main__ as styles
from tests.calling import call


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """mkdir names the part that it stumbled over, and not what was wanted."""
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/a/b: this folder cannot be made \(.*Not a directory\); choose another"):
        make_folder(tmp_path / "file" / "a" / "b")
    with pytest.raises(ValueError, match=r"file: this folder cannot be made \(.*File exists\)"):
        make_folder(tmp_path / "file")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_commands_say_so(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert call(styles.main, tmp_path / "file" / "a" / "made") == 2
    assert "file/a: this folder cannot be made (" in capsys.readouterr().err
    source = write_folder(tmp_path / "shapes", 2, 8)
    assert call(packing.main, source, tmp_path / "file" / "packed", "--size", 8) == 2
    assert "this folder cannot be made (" in capsys.readouterr().err
