"""How folders and archives are read: trees as text, each as a folder and as a zip."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overtone.data.open import layout_of
from overtone.data.splits import split_of
from overtone.errors import OvertoneError
from trees import parsed, write_folder, write_zip

CASES = """
A folder for each class
    cat/0.png dog/1.png dog/2.png
    train: cat dog dog
    test: none
No classes
    0.png 1.jpg
    train: - -
    test: none
Classes below a single top folder
    pets/cat/0.png pets/dog/1.png
    train: cat dog
Classes below two of them
    a/pets/cat/0.png a/pets/dog/1.png
    train: cat dog
Images below a single top folder are its class
    pets/0.png pets/1.png
    train: pets pets
Images deeper in a class
    cat/a/0.png cat/1.png dog/b/c/2.png
    train: cat cat dog
A class without images keeps its number
    ant/0.png bee/ cat/1.png
    classes: ant bee cat
    train: ant cat
A class whose files are no images keeps its number
    ant/0.png bee/x.heic cat/1.png
    classes: ant bee cat
    train: ant cat
    note: 1 file is not an image and is passed over (1 .heic)
A class with hidden files alone keeps its number
    ant/0.png bee/.DS_Store cat/1.png
    classes: ant bee cat
    train: ant cat
    note: 1 file is not an image and is passed over (1 hidden)
One class of folders beside an empty one is no top folder
    cat/deep/0.png cow/
    classes: cat cow
    train: cat
A top folder beside documents
    pets/cat/0.png pets/dog/1.png docs/a.pdf docs/b.txt docs/c.txt
    train: cat dog
    note: the folder docs holds no images
    note: 3 files are not images and are passed over (2 .txt, 1 .pdf)
Images beside classes
    cat/0.png stray.png
    error: has images in sub-folders (classes) and beside them (stray.png): move those
Empty folders beside images
    0.png cat/ dog/
    train: -
    note: the folders cat, dog hold no images
Files that are no images
    cat/0.png cat/a.txt cat/b.txt readme dog/1.png dog/x.HEIC
    train: cat dog
    note: 4 files are not images and are passed over (2 .txt, 1 .heic, 1 without suffix)
Many kinds of files that are no images
    0.png a.a a.b a.c a.d a.e a.f a.g
    train: -
    note: (1 .a, 1 .b, 1 .c, 1 .d, 1 .e and 2 more kinds)
Hidden files and folders, and those of systems
    cat/0.png cat/._0.png .git/a.png __MACOSX/cat/._0.png @eaDir/0.png cat/@eaDir/0.png
    train: cat
    note: 5 files are not images and are passed over (5 hidden)
No images
    a.txt b/c.txt
    error: holds no images (looked for .apng
    error: 2 files are not images and are passed over (2 .txt). Put images there
Nothing
    a/
    error: holds no images (looked for .apng
An archive within
    a.zip
    error: Archives in it have to be unpacked, or named themselves
Tables
    data/train.parquet
    error: Tables are read by hf:
A training and a test split
    train/cat/0.png train/dog/1.png test/cat/2.png test/dog/3.png
    train: cat dog
    test: cat dog
Splits without classes
    train/0.png train/1.png val/2.png
    train: - -
    test: -
A training split alone
    train/cat/0.png train/dog/1.png
    train: cat dog
    test: none
A training split alone, without classes
    training/0.png
    train: -
A test split alone
    test/cat/0.png test/dog/1.png
    error: holds a held-out split alone ('test'), which is not trained on: rename that folder
    test: cat dog
Several held-out splits alone
    test/0.png val/1.png
    error: holds a held-out split alone ('test', 'val'), which is not trained on
Splits in capitals
    Train/cat/0.png Train/dog/1.png TEST/cat/2.png TEST/dog/3.png
    train: cat dog
    test: cat dog
Splits below a top folder
    set/train/cat/0.png set/train/dog/1.png set/valid/cat/2.png set/valid/dog/3.png
    train: cat dog
    test: cat dog
Splits without classes below a top folder
    set/train/0.png set/test/1.png
    train: -
    test: -
Classes below a folder in each split
    train/images/cat/0.png train/images/dog/1.png val/images/cat/2.png val/images/dog/3.png
    train: cat dog
    test: cat dog
Splits within folders of the same name
    s/train/train/cat/0.png s/train/train/dog/1.png s/test/test/cat/2.png s/test/test/dog/3.png
    train: cat dog
    test: cat dog
Splits within a split
    train/train/cat/0.png train/test/cat/1.png
    error: has no classes, but folders that are called like splits (test, train): rename them
A validation split beside a test split
    train/0.png test/1.png validation/2.png
    train: -
    test: -
    note: the folder 'validation' is not used beside 'test'
Two training splits
    train/0.png Training/1.png
    error: has two training splits, 'train' and 'Training': rename one, or join them
A class called like a split
    train/0.png boat/1.png car/2.png
    classes: boat car train
    train: boat car train
    test: none
    note: 'train' is read as a class, as 'boat' beside it is called like no split
Classes called like both splits
    train/0.png test/1.png extra/2.png
    train: extra test train
    note: 'test' is read as a class, as 'extra' beside it is called like no split
Images beside splits
    train/0.png test/1.png 2.png 3.png
    train: -
    test: -
    note: 2 images are passed over beside the splits (2.png, 3.png)
Annotations beside splits
    train2017/0.png val2017/1.png annotations/a.json annotations/b.json
    train: -
    test: -
    note: the folder annotations holds no images
    note: 2 files are not images and are passed over (2 .json)
An empty test split
    train/cat/0.png test/
    train: cat
    test: none
    note: the folder test holds no images
An empty training split
    train/ test/0.png
    error: holds a held-out split alone ('test'), which is not trained on
An empty class of a split
    train/ant/0.png train/bee/ train/cat/1.png test/ant/2.png test/bee/3.png test/cat/4.png
    classes: ant bee cat
    train: ant cat
    test: ant bee cat
Files in the other split are its own
    train/0.png train/a.txt test/1.png test/b.md test/c.md
    train: -
    test: -
    note: 1 file is not an image and is passed over (1 .txt)
Splits in the folders of classes
    cat/train/0.png cat/test/1.png dog/train/2.png dog/test/3.png
    train: cat cat dog dog
    note: folders in those of the classes are called like splits (test, train), and the images
Labels of EDM
    00000/a.png 00000/b.png 00001/c.png dataset.json{00000/a.png:2,00000/b.png:1,00001/c.png:0}
    classes: 0 1 2
    train: 2 1 0
    test: none
Labels below a top folder
    top/00000/a.png top/00000/b.png top/dataset.json{00000/a.png:5,00000/b.png:2}
    classes: 0 1 2 3 4 5
    train: 5 2
Labels below two of them, of images beside the file
    x/top/a.png x/top/b.png x/top/dataset.json{a.png:0,b.png:1}
    train: 0 1
No labels
    00000/a.png dataset.json{}
    train: -
Labels with other tools' names
    00000/a.png b.png dataset.json{./00000\\\\a.png:1,./b.png:0}
    train: 1 0
Labels above splits
    train/a.png test/b.png dataset.json{train/a.png:3,test/b.png:1}
    classes: 0 1 2 3
    train: 3
    test: 1
Labels in each split
    train/a.png train/dataset.json{a.png:0} test/b.png test/dataset.json{b.png:2}
    classes: 0 1 2
    train: 0
    test: 2
Labels of images that are not there
    a.png dataset.json{a.png:0,b.png:1,c.png:2}
    train: 0
    note: 2 labels are of images that are not there (b.png)
An image without a label
    a.png b.png dataset.json{a.png:0}
    error: dataset.json has no label for b.png: add it, or remove the image
Two labels of an image
    a.png dataset.json{a.png:0,./a.png:1}
    error: dataset.json has two labels for a.png: remove one
Labels of one folder of several
    a/0.png a/dataset.json{0.png:5} b/1.png
    train: a b
    note: the labels in a/dataset.json are not used
Labels among what systems make
    a.png __MACOSX/dataset.json{a.png:0}
    train: -
    note: 1 file is not an image and is passed over (1 hidden)
"""


def cases():
    for block in CASES.strip("\n").split("\n"):
        if not block.startswith(" "):
            lines = []
            yield block, lines
        else:
            lines.append(block.strip())


TABLE = [pytest.param(lines[0], lines[1:], id=title) for title, lines in list(cases())]


def told(root, split):
    """What a layout says of a split: names, labels by name, classes, notes; or its error."""
    try:
        source = layout_of(str(root)).source(split)
    except OvertoneError as error:
        return str(error).replace(str(root), "ROOT")
    items = [(item.name.removeprefix(str(root)), item.label) for item in source.items()]
    return items, list(source.class_names), list(source.notes)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("tree", "expected"), TABLE)
def test_trees_are_read_alike_in_folders_and_zips(tmp_path, tree, expected, kind):
    write = write_folder if kind == "folder" else write_zip
    root = write(tmp_path / "it", parsed(tree.replace("\\\\", "\\")))
    sides = [line.split(": ", 1) for line in expected]
    errors = [text for side, text in sides if side == "error"]
    notes = [text for side, text in sides if side == "note"]
    classes = [text.split() for side, text in sides if side == "classes"]
    for split in ("train", "test"):
        wanted = [text for side, text in sides if side == split]
        answer = told(root, split)
        if split == "train" and errors:
            assert all(text in answer for text in errors), answer
        elif wanted == ["none"]:
            assert f"has no {split} split" in answer
            assert not layout_of(str(root)).has_split(split)
        elif wanted:
            items, names, said = answer
            read = [names[label] if label is not None else "-" for _, label in items]
            assert read == wanted[0].split()
            assert names == (classes[0] if classes else sorted(set(read) - {"-"}))
            if split == "train":
                assert len(said) == len(notes), said
                assert all(text in line for text, line in zip(notes, said, strict=True)), said


NAMES = {
    "train": "train Train TRAIN training Training trn train_set train-images train2017 Train_64x64"
    " images_train 01_train train.split",
    "test": "test Test TESTING tst val Val valid VALIDATION eval evaluation dev testset val2012"
    " test_images holdout held-out",
    "": "cat data images set trains testament detest deval value 2017 train-test best development",
}


@pytest.mark.parametrize(("split", "name"), [(s, n) for s, ns in NAMES.items() for n in ns.split()])
def test_names_of_splits(split, name):
    word = split_of(name)
    kinds = {None: "", "train": "train", "training": "train", "trn": "train"}
    assert kinds.get(word, "test") == split


# Names that mean something here, and any that a folder and a zip can have.
PARTS = st.one_of(
    st.sampled_from(["train", "Test", "val", "cat", "dog", ".DS_Store", "__MACOSX", "deep", "..a"]),
    st.text(
        st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=4
    ).filter(lambda part: part not in (".", "..") and len(part.encode()) < 200),
)
LEAVES = st.sampled_from(["0.png", "1.JPG", "2.txt", "dataset.json{}", "3", "4.png.bak", ""])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(PARTS, max_size=3), LEAVES), max_size=7))
def test_any_tree_is_read_alike_in_a_folder_and_in_a_zip(words):
    files = {}
    for folders, leaf in words:
        (name, content), *_ = (parsed(leaf) or {"": None}).items()
        path = "/".join([*folders, *([name] if name else [])])
        above = ["/".join(folders[:n]) for n in range(1, len(folders) + 1)]
        if path and path not in files and all(files.get(at) is None for at in above):
            files[path] = content
    # A file is no folder of another one.
    files = {
        name: content
        for name, content in files.items()
        if content is None or not any(other.startswith(f"{name}/") for other in files)
    }
    with tempfile.TemporaryDirectory() as place:
        folder = write_folder(Path(place) / "it", files)
        archive = write_zip(Path(place) / "it.zip", files)
        for split in ("train", "test"):
            assert told(folder, split) == told(archive, split)
