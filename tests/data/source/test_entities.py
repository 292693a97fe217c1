"""Flickr30k Entities: phrases and boxes come together, and what is malformed is named with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import DataError
from data.source.entities import read_annotation, read_entities, read_sentence

SENTENCES = """\
[/EN#12/people Two young guys] with [/EN#13/bodyparts shaggy hair] look at [/EN#14/bodyparts/other their hands] .
[/EN#12/people They] are in [/EN#15/scene the yard] , [/EN#0/notvisual which] has [/EN#16/other a fence] .

"""
XML = """\
<annotation>
    <filename>77.jpg</filename>
    <size><width>500</width><height>333</height><depth>3</depth></size>
    <object>
        <name>12</name>
        <bndbox><xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>220</ymax></bndbox>
    </object>
    <object>
        <name>12</name><name>14</name>
        <bndbox><xmin>200.5</xmin><ymin>20</ymin><xmax>300</xmax><ymax>333</ymax></bndbox>
    </object>
    <object>
        <name>14</name>
        <bndbox><xmin>200.5</xmin><ymin>20</ymin><xmax>300</xmax><ymax>333</ymax></bndbox>
    </object>
    <object><name>15</name><scene>1</scene></object>
    <object><name>16</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>
"""
FIRST, SECOND = [10, 20, 110, 220], [200.5, 20, 300, 333]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, sentences in (("77", SENTENCES), ("100", "A dog .\n"), ("9", "[/EN#12/people A man]\n")):
        (tmp_path / "Sentences").mkdir(exist_ok=True)
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Sentences" / f"{name}.txt").write_text(sentences, "utf-8")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(XML, "utf-8")
    return tmp_path


def test_phrases_get_the_boxes_of_their_entities(folder: Path) -> None:
    (folder / "test.txt").write_text("77\n")
    (entry,) = read_entities(folder, folder / "test.txt")
    assert (entry.image, entry.number, entry.split) == ("77", 77, "")
    first, second, third = entry.captions
    assert first.text == "Two young guys with shaggy hair look at their hands ."
    assert first.fields["phrases"] == [
        {"start": 0, "end": 3, "entity": "12", "boxes": [FIRST, SECOND]},
        {"start": 4, "end": 6, "entity": "13", "boxes": []},
        {"start": 8, "end": 10, "entity": "14", "boxes": [SECOND]},
    ]
    assert second.text == "They are in the yard , which has a fence ."
    assert [phrase["boxes"] for phrase in second.fields["phrases"]] == [[FIRST, SECOND], [], [], []]
    assert (third.text, third.fields["phrases"]) == ("", [])
    assert first.fields["image_size"] == [500, 333]
    assert [(c.id, c.fields["sentid"]) for c in entry.captions] == [("0", 0), ("1", 1), ("2", 2)]
    assert first.fields["raw"] == first.text


def test_without_a_list_images_come_by_name(folder: Path) -> None:
    assert [entry.image for entry in read_entities(folder)] == ["100", "77", "9"]
    assert [caption.id for entry in read_entities(folder) for caption in entry.captions] == ["0", "1", "2", "3", "4"]


def test_lists_choose_and_order_images(folder: Path) -> None:
    (folder / "test.txt").write_text("9.webp\r\n\n 77.jpg \n")
    entries = read_entities(folder, folder / "test.txt")
    assert [entry.image for entry in entries] == ["9", "77"]
    assert [caption.id for caption in entries[1].captions] == ["1", "2", "3"]
    assert entries[1].captions[0].fields["imgid"] == 1


def test_lists_that_do_not_fit_are_named(folder: Path) -> None:
    listed = folder / "test.txt"
    listed.write_text("9\n77\n9\n")
    with pytest.raises(DataError, match=r"test\.txt, line 3: image 9 stands in line 1 already"):
        read_entities(folder, listed)
    listed.write_text("\n")
    with pytest.raises(DataError, match=r"test\.txt names no image"):
        read_entities(folder, listed)
    listed.write_text("8\n")
    with pytest.raises(DataError, match=r"Annotations/8\.xml is missing; leave the image out"):
        read_entities(folder, listed)
    with pytest.raises(DataError, match=r"none\.txt is missing"):
        read_entities(folder, folder / "none.txt")


def test_the_first_fault_of_each_image_is_told(folder: Path) -> None:
    listed = folder / "test.txt"
    (folder / "Sentences" / "100.txt").write_text("[/EN#1/people A dog\n")
    listed.write_text("8\n77\n100\n" + "".join(f"{number}\n" for number in range(200, 206)))
    with pytest.raises(DataError, match=r"Annotations/8\.xml is missing; .*100\.txt, line 1: .*and 3 more images$"):
        read_entities(folder, listed)


def test_missing_folders_and_sentences_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folder Sentences; give the one that holds"):
        read_entities(tmp_path / "nowhere")
    (folder / "Sentences" / "77.txt").rename(folder / "77.txt")
    (folder / "list").write_text("77")
    with pytest.raises(DataError, match=r"Sentences/77\.txt is missing"):
        read_entities(folder, folder / "list")
    for path in (folder / "Sentences").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="Sentences names no image"):
        read_entities(folder)


def test_brackets_of_the_caption_are_words() -> None:
    text, phrases = read_sentence("He [sic] says [ [/EN#3/other a [red] flag]", "x")
    assert text == "He [sic] says [ a [red] flag"
    assert phrases == [{"start": 4, "end": 7, "entity": "3"}]


def test_a_closing_bracket_may_stand_alone() -> None:
    assert read_sentence("[/EN#3/other a dog ] runs", "x") == ("a dog runs", [{"start": 0, "end": 2, "entity": "3"}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[/EN#3/other a dog runs", "the phrase of entity 3 is not closed"),
        ("a [/EN#3/other dog [/EN#4/other runs]]", r"\[/EN#4/other opens a phrase within another"),
        ("a dog] runs", r"dog\] closes no phrase"),
        ("[/EN#3/other a] dog]", r"dog\] closes no phrase"),
        ("a [/EN#3/other ] dog", "the phrase of entity 3 has no word"),
        ("[/EN#x/other a dog]", r"\[/EN#x/other names no entity and type"),
        ("[/EN#3 a dog]", r"\[/EN#3 names no entity and type"),
        ("[/EN#3/other] dog", r"\[/EN#3/other\] names no entity and type"),
    ],
)
def test_malformed_sentences_are_named(folder: Path, line: str, message: str) -> None:
    (folder / "Sentences" / "9.txt").write_text(f"A dog .\n{line}\n")
    with pytest.raises(DataError, match=rf"Sentences/9\.txt, line 2: {message}; mark phrases as"):
        read_entities(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"line \d+: is not XML \(no element found\)"),
        ("<size>", "<siz>", "line 3: is not XML"),
        (XML, "", r"line 1: is not XML \(no element found\)"),
        ("<size><width>500</width><height>333</height><depth>3</depth></size>", "", "line 1: annotation has no size"),
        ("<width>500</width>", "", "line 3: size has no width"),
        ("<width>500</width>", "<width>wide</width>", "line 3: width is wide, not a number"),
        ("<width>500</width>", "<width>inf</width>", "line 3: width is inf, not a number"),
        ("<width>500</width>", "<width>0</width>", "line 3: width is 0, not a number of pixels"),
        ("<height>333</height>", "<height>-5</height>", "line 3: height is -5, not a number of pixels"),
        ("<xmin>10</xmin>", "", "line 6: bndbox has no xmin"),
        ("<xmin>10</xmin>", "<xmin/>", "line 6: xmin is empty, not a number"),
        ("<xmin>10</xmin>", "<xmin>1</xmin><xmin>2</xmin>", "line 6: bndbox has 2 xmin"),
        ("<scene>1</scene>", "", "line 16: object has neither bndbox nor scene nor nobndbox"),
        ("<name>15</name>", "", "line 16: object has no name"),
    ],
)
def test_malformed_annotations_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "77.xml"
    assert old in XML
    path.write_text(XML.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"77\.xml, {message}.*; mend or fetch the file again"):
        read_annotation(path)


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE annotation SYSTEM "file:///etc/hostname">',
        '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
    ],
)
def test_document_types_are_refused_before_anything_can_expand(tmp_path: Path, declared: str) -> None:
    path = tmp_path / "77.xml"
    path.write_text("<?xml version='1.0'?>\n" + declared + XML.replace("77.jpg", "&b;"))
    with pytest.raises(DataError, match=r"77\.xml, line 2: declares a document type"):
        read_annotation(path)


def test_a_folder_in_place_of_an_annotation_is_named(tmp_path: Path) -> None:
    (tmp_path / "77.xml").mkdir()
    with pytest.raises(DataError, match=r"77\.xml cannot be read \(Is a directory\)"):
        read_annotation(tmp_path / "77.xml")
