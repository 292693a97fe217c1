"""Captions to a text store through the program: sources, vocabularies, splits, exit codes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import ConfigError, DataError
from data.stores.text_store import TextStore
from scripts.build_txtdb import main

ROOT = Path(__file__).parents[2]
LINES = [
    {"image_id": "a_1", "split": "train", "captions": ["A dog runs .", "  ", "Two dogs ."]},
    {"image_id": "b_2", "split": "val", "captions": ["A cat ."]},
    {"image_id": "c_3", "split": "train", "captions": []},
]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.fixture
def karpathy(tmp_path: Path) -> Path:
    images = [
        {
            "filename": f"{number}.jpg",
            "split": "train",
            "sentences": [{"raw": f"Dog number {number} .", "tokens": [], "imgid": number, "sentid": number}],
        }
        for number in range(1200)
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": images}))
    return path


def stored(folder: Path) -> dict[str, object]:
    store = TextStore(folder)
    return {id: store.record(id) for id in store.ids}


def test_packs_a_split_and_names_captions_without_words(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "train.db"
    flags = ["--annotations", str(captions), "--split", "train", "--make_vocab", "400", "--workers", "1"]
    assert main([*flags, "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"2 captions of 1 image in {output}, 1 left out")
    assert "caption 1 of a_1.npz has no word, left out" in said.err
    store = TextStore(output)
    assert store.ids == ["0", "2"]
    assert store.image_order == ["a_1.npz"]
    record = store.record("0")
    pieces = [piece.removeprefix("@@").removeprefix("##") for piece in record["toked_caption"]]
    assert "".join(pieces) == "Adogruns."
    assert len(record["input_ids"]) == len(pieces)
    assert (record["raw"], record["image_id"], record["sentid"]) == ("A dog runs .", 1, 0)


def test_the_store_keeps_and_names_its_vocabulary(captions: Path, tmp_path: Path) -> None:
    train, val = tmp_path / "train.db", tmp_path / "val.db"
    main(["--annotations", str(captions), "--split", "train", "--make_vocab", "400", "--output", str(train)])
    vocab = train / "vocab.txt"
    main(["--annotations", str(captions), "--split", "val", "--vocab", str(vocab), "--output", str(val)])
    stores = [TextStore(train), TextStore(val)]
    assert {store.vocab_hash for store in stores} == {hashlib.sha256(vocab.read_bytes()).hexdigest()}
    assert stores[0].meta["tokenizer"] == "vocab.txt"
    assert stores[1].meta["split"] == ["val"]
    assert stores[1].special == stores[0].special


def test_karpathy_names_and_many_processes_give_the_same_store(karpathy: Path, tmp_path: Path) -> None:
    results = []
    for workers in ("1", "2"):
        output = tmp_path / f"{workers}.db"
        flags = ["--annotations", str(karpathy), "--make_vocab", "400", "--workers", workers]
        main([*flags, "--image_naming", "flickr30k_{id:012d}.npz", "--output", str(output)])
        results.append((stored(output), (output / "img2txts.json").read_text(), (output / "vocab.txt").read_text()))
    assert results[0] == results[1]
    assert TextStore(output).images[:2] == ["flickr30k_000000000000.npz", "flickr30k_000000000001.npz"]


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("3\n4\n")
    (tmp_path / "caps.txt").write_text("A dog\nA cat\n")
    flags = ["--ids", str(tmp_path / "ids.txt"), "--captions", str(tmp_path / "caps.txt"), "--make_vocab", "400"]
    main([*flags, "--output", str(tmp_path / "toy.db")])
    assert TextStore(tmp_path / "toy.db").images == ["3.npz", "4.npz"]


ANNOTATION = """<annotation><size><width>100</width><height>50</height></size><object><name>3</name><bndbox>
<xmin>0</xmin><ymin>0</ymin><xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>"""


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    """Two images in the form of Flickr30k Entities, and a list of one of them."""
    folder = tmp_path / "entities"
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True)
    for number in ("11", "22"):
        (folder / "Sentences" / f"{number}.txt").write_text(f"[/EN#3/animals Dog {number}] runs .\nA cat .\n")
        (folder / "Annotations" / f"{number}.xml").write_text(ANNOTATION)
    (folder / "test.txt").write_text("22\n")
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
def test_annotated_captions_have_objects(entities: Path, tmp_path: Path, workers: str) -> None:
    flags = ["--entities", str(entities), "--images", str(entities / "test.txt"), "--make_vocab", "400"]
    main([*flags, "--image_naming", "f_{id:04d}.npz", "--output", str(tmp_path / "toy.db"), "--workers", workers])
    store = TextStore(tmp_path / "toy.db")
    assert store.images == ["f_0022.npz", "f_0022.npz"]
    first, second = map(store.record, store.ids)
    pieces = [piece.removeprefix("@@").removeprefix("##") for piece in first["toked_caption"]]
    (found,) = first["objects"]
    assert "".join(pieces[at] for at in found["words"]) == "Dog22"
    assert found["boxes"] == [[0, 0, 0.5, 1]]
    assert (first["raw"], second["objects"]) == ("Dog 22 runs .", [])
    assert store.meta["annotations"] == ["entities", "test.txt"]


def test_captions_without_annotation_have_no_objects(captions: Path, tmp_path: Path) -> None:
    main(["--annotations", str(captions), "--make_vocab", "400", "--output", str(tmp_path / "toy.db")])
    assert not any("objects" in record for record in stored(tmp_path / "toy.db").values())


def test_annotation_that_does_not_fit_stops_the_packing(entities: Path, tmp_path: Path) -> None:
    path = entities / "Annotations" / "22.xml"
    path.write_text(ANNOTATION.replace("<xmax>50<", "<xmax>150<"))
    flags = ["--entities", str(entities), "--make_vocab", "400", "--output", str(tmp_path / "toy.db"), "--workers", "2"]
    with pytest.raises(DataError, match=r"entities, caption 2 of 22\.npz, phrase 0: box \[0, 0, 150, 50\] reaches out"):
        main(flags)
    assert not list(tmp_path.glob("toy.db*")), "nothing is written, nor begun"


def test_all_phrases_that_do_not_fit_are_told_at_once(tmp_path: Path) -> None:
    phrase = {"start": 0, "end": 9, "boxes": []}
    lines = [json.dumps({"image_id": number, "captions": ["a b"], "phrases": [[phrase]]}) for number in range(7)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    flags = ["--annotations", str(tmp_path / "a.jsonl"), "--make_vocab", "400", "--output", str(tmp_path / "toy.db")]
    with pytest.raises(DataError, match=r"a\.jsonl, caption 0 of 0\.npz, phrase 0: words 0 to 9 .*; and 2 more$"):
        main(flags)
    assert not list(tmp_path.glob("toy.db*"))


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--make_vocab", "400"], ConfigError, "give either --annotations"),
        (["--entities", "e", "--ids", "x", "--make_vocab", "400"], ConfigError, "give either --annotations"),
        (["--entities", "e", "--annotations", "{}", "--make_vocab", "400"], ConfigError, "give either --annotations"),
        (["--annotations", "{}", "--images", "x", "--make_vocab", "400"], ConfigError, "--images needs --entities"),
        (["--entities", "nowhere", "--make_vocab", "400"], DataError, "nowhere has no folder Sentences"),
        (["--ids", "x", "--make_vocab", "400"], ConfigError, "give either --annotations"),
        (["--annotations", "{}"], ConfigError, "either --vocab FILE or --make_vocab"),
        (["--annotations", "{}", "--make_vocab", "400", "--vocab", "v"], ConfigError, "either --vocab"),
        (["--annotations", "{}", "--make_vocab", "400", "--split", "dev"], ConfigError, "the file has train, val"),
        (["--annotations", "{}", "--make_vocab", "400", "--image_naming", "{nr}"], ConfigError, "does not fit"),
        (["--annotations", "{}", "--vocab", "nowhere.txt"], DataError, "nowhere.txt cannot be read"),
        (["--annotations", "nowhere.json", "--make_vocab", "400"], DataError, "nowhere.json is missing"),
    ],
)
def test_wrong_input_is_refused(
    captions: Path, tmp_path: Path, flags: list[str], error: type[Exception], message: str
) -> None:
    arguments = [flag.replace("{}", str(captions)) if flag == "{}" else flag for flag in flags]
    with pytest.raises(error, match=message):
        main([*arguments, "--output", str(tmp_path / "toy.db")])
    assert not (tmp_path / "toy.db").exists()


def test_a_source_without_captions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "captions": []}\n')
    flags = ["--annotations", str(tmp_path / "captions.jsonl"), "--make_vocab", "400"]
    with pytest.raises(DataError, match=r"no caption to pack in .*captions\.jsonl; check it and --split"):
        main([*flags, "--output", str(tmp_path / "toy.db")])
    assert not list(tmp_path.glob("toy.db*"))
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "captions": [" "]}\n')
    with pytest.raises(DataError, match="no caption with a word to pack; see"):
        main([*flags, "--output", str(tmp_path / "toy.db")])


def test_as_a_program_errors_are_one_line_with_an_exit_code(captions: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "scripts/build_txtdb.py",
        "--annotations",
        str(captions),
        "--output",
        str(tmp_path / "a"),
    ]
    for flags, code in ((["--make_vocab", "5"], 2), (["--vocab", "nowhere"], 3), (["--make_vocab", "400"], 0)):
        done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        said = done.stderr.splitlines()
        if code:
            assert len(said) == 1
            assert said[0].startswith("build_txtdb.py: ")


def test_captions_may_be_cleaned_before_they_are_split(tmp_path: Path) -> None:
    source, vocab = tmp_path / "odd.jsonl", tmp_path / "vocab.txt"
    source.write_text(json.dumps({"image_id": "a_1", "captions": ["A do\x0bg"]}) + "\n")
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "do", "g"]) + "\n")
    flags = ["--annotations", str(source), "--vocab", str(vocab), "--lower_case", "--workers", "1"]
    for name, more, pieces in (("plain", [], ["a", "do", "g"]), ("clean", ["--clean_first"], ["a", "dog"])):
        main([*flags, *more, "--output", str(tmp_path / name)])
        store = TextStore(tmp_path / name)
        assert store.record(store.ids[0])["toked_caption"] == pieces
        assert store.meta.get("clean_first", False) == bool(more)


def test_special_tokens_in_captions_are_words_only_where_wanted(tmp_path: Path) -> None:
    source, vocab = tmp_path / "c.jsonl", tmp_path / "vocab.txt"
    source.write_text(json.dumps({"image_id": "a", "captions": ["a [MASK]"]}) + "\n")
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    for name, more, ids in (("split", [], [5, 1, 1, 1]), ("kept", ["--special_words"], [5, 4])):
        flags = ["--annotations", str(source), "--vocab", str(vocab), "--workers", "2", *more]
        main([*flags, "--output", str(tmp_path / name)])
        store = TextStore(tmp_path / name)
        assert store.tokens("0").tolist() == ids
        assert store.meta.get("special_words", False) == bool(more)


def test_words_of_a_list_are_not_cleaned(tmp_path: Path) -> None:
    for flag in ("--clean_first", "--special_words"):
        with pytest.raises(ConfigError, match=f"{flag} is for WordPieces; give --vocab or --make_vocab, or leave"):
            main(["--annotations", "none", "--words", "vocab.json", flag, "--output", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="--punkt is for whole words; give --words or --make_words, or leave it out"):
        main(["--annotations", "none", "--vocab", "vocab.txt", "--punkt", "p", "--output", str(tmp_path / "out")])
