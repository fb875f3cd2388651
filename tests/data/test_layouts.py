"""The ways in which people lay out pictures: each is read as what it is, or refused with the ways out."""

import json
from collections import Counter
from pathlib import Path

import pytest

from data.index import report
from data.index.items import Source
from data.pack.packer import pack
from data.pack.settings import PackSettings

from .conftest import lay, listed, members, png

JSON = ("metadata.jsonl", lambda rows: "".join(json.dumps(row) + "\n" for row in rows))
CSV = (
    "metadata.csv",
    lambda rows: "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n",
)


def labels(source: Source) -> dict[str, tuple[str, str | None]]:
    """Split and class of each picture."""
    names = source.classes or []
    return {item.name: (item.split, None if item.label is None else names[item.label]) for item in source.items}


def told(source: Source) -> dict[str, int]:
    return dict(Counter(what for what, _ in source.unread))


@pytest.mark.parametrize(("table", "written"), [JSON, CSV], ids=["jsonl", "csv"])
def test_hugging_face_folders_of_splits_with_metadata(tmp_path, table, written):
    def rows(num):
        return [{"file_name": f"{k}.png", "caption": f"number {k}", "label": k} for k in range(num)]

    src = lay(
        tmp_path / "src",
        *(f"{split}/{k}.png" for split, num in (("train", 3), ("validation", 2), ("test", 1)) for k in range(num)),
        others={f"{split}/{table}": written(rows(n)) for split, n in (("train", 3), ("validation", 2), ("test", 1))},
    )
    index = pack(src, tmp_path / "out", PackSettings(size=16))
    assert index.num_images == {"test": 1, "train": 3, "val": 2}
    assert index.classes == ["0", "1", "2"]
    assert (
        index.read_as == f"metadata (3 files {table}), captions from column caption, labels from column label, 3 splits"
    )
    assert index.unread == {}
    by_name = {json.loads(s["json"])["source"]: s["txt"] for s in members(tmp_path / "out").values()}
    assert by_name["validation/1.png"] == b"number 1"


@pytest.mark.parametrize("name", ["train", "val", "valid", "validation", "test", "dev", "train2017", "Val"])
@pytest.mark.parametrize("inner", ["cat/{}.png", "{}.png"], ids=["class folders", "pictures"])
def test_folders_called_like_splits_are_splits_whatever_is_in_them(tmp_path, name, inner):
    paths = [f"{name}/{inner.format(k)}" for k in range(2)]
    paths += [path.replace("cat", "dog").replace("0.", "3.") for path in paths] if "cat" in inner else []
    split = "train" if "train" in name else "test" if name == "test" else "val"
    source = listed(lay(tmp_path, *paths))
    assert {item.split for item in source.items} == {split}
    assert source.classes == (["cat", "dog"] if "cat" in inner else None)


def test_splits_share_their_classes_and_captions(tmp_path):
    src = lay(
        tmp_path, "train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "val/ant/4.png",
        others={"train/cat/1.txt": "a cat", "val/dog/3.txt": "a dog"},
    )  # fmt: skip
    source = listed(src)
    assert labels(source) == {
        "train/cat/1.png": ("train", "cat"), "train/dog/2.png": ("train", "dog"),
        "val/dog/3.png": ("val", "dog"), "val/ant/4.png": ("val", "ant"),
    }  # fmt: skip
    assert {item.name: item.text for item in source.items}["val/dog/3.png"] == "a dog"
    assert source.read_as == "3 classes (ant, cat, dog) with captions beside the pictures, 2 splits"
    assert {item.split for item in listed(src, splits=False).items} == {"train"}
    assert listed(src, splits=False).classes == ["train", "val"]


def test_a_column_or_the_folders_in_metadata_tell_the_split(tmp_path):
    rows = [{"file_name": f"train/{k}.png", "split": split} for k, split in enumerate(["train", "dev", "test", ""])]
    src = lay(tmp_path / "a", *(row["file_name"] for row in rows), others={"metadata.jsonl": JSON[1](rows)})
    source = listed(src)
    assert [item.split for item in source.items] == ["train", "val", "test"]
    assert source.bad == [("no split", "train/3.png")]
    assert source.read_as == "metadata (metadata.jsonl), splits from column split, 3 splits"
    assert [item.split for item in listed(src, splits=False).items] == ["train"] * 4
    rows = [{"file_name": f"{folder}/x.png"} for folder in ("train", "valid")]
    src = lay(tmp_path / "b", *(row["file_name"] for row in rows), others={"metadata.jsonl": JSON[1](rows)})
    assert [item.split for item in listed(src).items] == ["train", "val"]
    (src / "metadata.jsonl").write_text('{"file_name": "train/x.png", "split": "fold 3"}')
    with pytest.raises(ValueError, match=r"column split has 'fold 3' for train/x\.png; .* --no-splits"):
        listed(src)


def test_img2dataset_files_are_one_set_with_captions_and_facts(tmp_path):
    names = [f"0000{s}/0000{s}000{k}" for s in range(3) for k in range(2)]
    others: dict[str, bytes | str] = {f"{name}.json": json.dumps({"url": f"http://{name}"}) for name in names}
    others |= {f"{name}.txt": f"caption {name}" for name in names} | {
        "00000.parquet": b"PAR1",
        "00000_stats.json": "{}",
    }
    index = pack(
        lay(tmp_path / "src", *(f"{name}.jpg" for name in names), others=others),
        tmp_path / "out",
        PackSettings(size=16),
    )
    assert (index.classes, index.has_text, index.num_images) == (None, True, {"train": 6})
    assert index.read_as == "plain with captions beside the pictures"
    assert {what: s.names for what, s in index.unread.items()} == {
        ".json": ["00000_stats.json"],
        ".parquet": ["00000.parquet"],
    }
    sample = next(s for s in members(tmp_path / "out").values() if s["txt"] == b"caption 00001/000010001")
    assert json.loads(sample["json"])["url"] == "http://00001/000010001"


def test_captions_of_either_suffix_or_of_a_field_beside_the_pictures(tmp_path):
    src = lay(tmp_path, "a.png", "b.v2.png", others={"a.caption": "one", "b.v2.caption": "two", "notes.txt": "mine"})
    assert [item.text for item in listed(src).items] == ["one", "two"]
    assert [item.text for item in listed(lay(tmp_path / "sub", "c.png", others={"c.png.txt": "three"})).items] == [
        "three"
    ]
    (tmp_path / "sub/c.png").unlink()
    (tmp_path / "sub/c.png.txt").unlink()
    assert listed(src).unread == [(".txt", "notes.txt")]
    lay(src, others={"a.txt": "tags", "a.json": '{"long": "three", "n": 1}'})
    with pytest.raises(ValueError, match=r"a\.caption lies beside a \.txt; .* --text-column txt or caption"):
        listed(src)
    assert [item.text for item in listed(src, text_column="txt").items] == ["tags", ""]
    assert [item.text for item in listed(src, text_column="long").items] == ["three", ""]
    assert listed(src, text_column="long").read_as == "plain with captions in the .json beside the pictures"
    assert listed(src, text_column="n").bad == [("caption is no text", "a.png")]
    (src / "a.json").unlink()
    with pytest.raises(
        ValueError, match=r"--text-column 'long': no \.long and no \.json .* there are \.caption, \.txt"
    ):
        listed(src, text_column="long")


@pytest.mark.parametrize(
    ("paths", "says", "ways"),
    [
        (["bus/1.png", "train/2.png"], "folder train is called like a split, bus/1.png lies in none", [{"splits": False}]),
        (["1.png", "test/2.png"], "folder test is called like a split, 1.png lies in none", [{"splits": False, "source": "plain"}]),
        (["images/train/1.png", "images/val/2.png"], r"name the folder that holds the splits \(.*/images\)", [{"splits": False}]),
        (["cat/test/1.png", "dog/2.png"], "cat/test is called like a split, but lies further down", [{"splits": False}]),
        (["cat/1.png", "2.png"], "cat/1.png lies in a folder that could be a class, 2.png in none",
         [{"source": "plain"}, {"source": "classes"}]),
        (["train/cat/1.png", "test/2.png"], "could be a class, test/2.png in none", [{"source": "plain"}, {"source": "classes"}]),
        (["00000/1.png", "00001/2.png"], "00000, 00001 may be classes or",
         [{"source": "plain"}, {"source": "classes"}]),
        (["a.png", "b.tar"], "has tars .b.tar. and pictures .a.png.", [{"source": "plain"}]),
    ],
)  # fmt: skip
def test_what_could_be_two_things_is_refused_with_the_ways_out(tmp_path, paths, says, ways):
    src = lay(tmp_path, *paths)
    with pytest.raises(ValueError, match=says) as refused:
        listed(src)
    for choices in ways:
        flag = f"--source {choices['source']}" if "source" in choices and "splits" not in choices else "--no-splits"
        assert flag in str(refused.value)
        source = listed(src, **choices)
        assert source.items
        assert len(source.items) + len(source.unread) == len(paths)


def test_one_folder_is_no_class_and_numbers_are_classes(tmp_path):
    source = listed(lay(tmp_path / "a", "images/1.png", "images/2.png", others={"labels/1.txt": "0 0.5"}))
    assert (source.classes, source.read_as, told(source)) == (None, "plain without captions", {".txt": 1})
    assert listed(lay(tmp_path / "b", "0/1.png", "7/1.png")).classes == ["0", "7"]


def test_metadata_further_down_and_twice_and_as_parquet(tmp_path):
    rows = {name: [{"file_name": "1.png", "text": name}] for name in ("a", "b")}
    src = lay(
        tmp_path, "a/1.png", "b/1.png", "b/2.png", others={f"{n}/metadata.jsonl": JSON[1](r) for n, r in rows.items()}
    )
    source = listed(src)
    assert {item.name: item.text for item in source.items} == {"a/1.png": "a", "b/1.png": "b"}
    assert source.unread == [("pictures that metadata does not name", "b/2.png")]
    lay(src, others={"b/metadata.csv": "file_name\n1.png\n"})
    with pytest.raises(ValueError, match=r"b has both metadata\.jsonl and metadata\.csv; remove one"):
        listed(src)
    for name in ("metadata.jsonl", "metadata.csv"):
        (src / "b" / name).unlink()
    lay(src, others={"b/metadata.parquet": b"PAR1"})
    with pytest.raises(
        ValueError, match=r"metadata\.parquet is not read, .* python -c \"import pandas; .*metadata\.jsonl"
    ):
        listed(src)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file_name;text\na.png;x\n", "has columns file_name;text; it needs file_name, and commas"),
        ("file_name,text\na.png\n", "line 2 has not 2 cells"),
        ("file_name,text\na.png,b,c\n", "line 2 has not 2 cells"),
        ('file_name,text\na.png,"b\n', "is no CSV after line 1 .unexpected end of data"),
        ("file_name,text\na.png,caf\xe9\n".encode("latin1"), r"neither UTF-8 nor UTF-16 with its mark \(byte 0xe9\)"),
    ],
)
def test_csv_that_is_none(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        listed(lay(tmp_path, "a.png", others={"metadata.csv": content}))


def test_tables_with_marks_and_captions_of_several_lines(tmp_path):
    table = 'file_name,text,label\r\n./a.png,"one,\ntwo é",10\r\nb.png,,9\r\n'
    for encoding in ("utf-8-sig", "utf-16"):
        source = listed(lay(tmp_path / encoding, "a.png", "b.png", others={"metadata.csv": table.encode(encoding)}))
        assert [(item.name, item.text, item.label) for item in source.items] == [
            ("a.png", "one,\ntwo é", 10),
            ("b.png", "", 9),
        ]


def test_hidden_folders_and_those_of_tools_are_left_out(tmp_path, put_tar):
    names = [
        ".ipynb_checkpoints/1.png",
        "cat/@eaDir/1.png/SYNO.jpg",
        "__MACOSX/cat/._1.png",
        "packing.part/x.png",
        "._y.png",
    ]
    source = listed(lay(tmp_path / "a", "cat/1.png", "dog/2.png", *names))
    assert [item.name for item in source.items] == ["cat/1.png", "dog/2.png"]
    assert source.classes == ["cat", "dog"]
    assert [name for what, name in source.unread if what == "hidden folders"] == [
        ".ipynb_checkpoints", "__MACOSX", "cat/@eaDir", "packing.part"
    ]  # fmt: skip
    for name in ("0.tar", ".ipynb_checkpoints/0-checkpoint.tar", "packing.part/train-00000.tar", "@eaDir/1.tar"):
        put_tar(tmp_path / "tars" / name, [(f"{name.replace('.', '')}.png", png())])
    assert [item.name for item in listed(tmp_path / "tars").items] == ["0.tar/0tar"]
    assert pack(tmp_path / "tars", tmp_path / "kept", PackSettings(size=0)).num_images == {"train": 1}


def test_links_are_followed_unless_they_lead_back_or_nowhere(tmp_path):
    lay(tmp_path / "far", "1.png", "2.png")
    src = lay(tmp_path / "src", "cat/1.png")
    (src / "dog").symlink_to(tmp_path / "far")
    (src / "cat/loop").symlink_to(src)
    (src / "cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    source = listed(src)
    assert sorted(labels(source).values()) == [("train", "cat"), ("train", "dog"), ("train", "dog")]
    assert source.bad == [("no file", "cat/gone.png")]


def test_a_folder_without_pictures_says_what_lies_there(tmp_path):
    with pytest.raises(ValueError, match=r"has no pictures .* but \.heic, \.zip; name a folder that has"):
        listed(lay(tmp_path, others={"a.heic": "x", "b.zip": "x"}))


def test_the_report_says_what_was_read_and_what_was_not(tmp_path, capsys):
    src = lay(
        tmp_path / "src",
        *(f"{k}.png" for k in range(4)),
        others={"0.txt": "a", "1.txt": " \n", "x.heic": "", "y.HEIC": ""},
    )
    report(pack(src, tmp_path / "out", PackSettings(size=16, val=0.3)), Path("out"))
    lines = capsys.readouterr().out.splitlines()
    assert "read as: plain with captions beside the pictures" in lines
    assert any(line.startswith("packed 3 without a caption, trained as empty: ") for line in lines)
    assert "not read 2 .heic: x.heic, y.HEIC" in lines


def test_label_columns_need_metadata(tmp_path):
    with pytest.raises(ValueError, match=r"--label-column names a column of metadata, .* is plain"):
        listed(lay(tmp_path, "a.png"), label_column="x")
