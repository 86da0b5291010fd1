"""`scan` against torchvision's ImageFolder, and the rules about splits that it adds."""

import os
import sys
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from augpipe.data.folder import EXTENSIONS, Listing, Source, scan
from augpipe.errors import DataError, UsageError


def make(root, *names):
    """Makes empty files (scan never looks into one), and folders for names ending in "/"."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(b"")
    return root


def relatives(listing):
    return [source.relative for source in listing.sources]


def assert_like_image_folder(root):
    """Asserts equal files, order and class indices; returns the listing."""
    theirs = ImageFolder(root, allow_empty=True)
    ours = scan(root)
    assert [str(source.path) for source in ours.sources] == [path for path, _ in theirs.samples]
    assert list(ours.classes) == theirs.classes
    assert [ours.classes.index(source.label) for source in ours.sources] == theirs.targets
    for source in ours.sources:
        assert source.path == root / source.relative
    return ours


# --- order and labels -----------------------------------------------------------------------


def test_extensions_are_image_folders():
    assert set(EXTENSIONS) == set(IMG_EXTENSIONS)


def test_order_equals_image_folder(tmp_path):
    root = make(
        tmp_path / "data",
        "cat/10.jpg", "cat/9.jpg", "cat/A.PNG", "cat/a.png", "cat/b.JpEg",
        "Dog/z/1.jpg", "Dog/a/2.jpg", "Dog/a-b/3.jpg", "Dog/a b/3.jpg", "Dog/a/c/4.jpg",
        "Dog/5.bmp",
        "übung/名前 with space é.jpg", "übung/x.webp", "übung/line\nbreak.tiff", "10/x.ppm",
        "9/x.pgm",
        "empty/", "texts/readme.txt", "cat/notes.txt", "cat/x.gif", "cat/jpg", "cat/y.jpg.txt",
    )  # fmt: skip
    listing = assert_like_image_folder(root)
    assert len(listing.sources) == 16
    assert listing.classes == ("10", "9", "Dog", "cat", "empty", "texts", "übung")
    assert listing.ignored == 5
    # "a-b" and "a b" sort before "a/c", and all of "a" after "5.bmp" of the folder itself.
    dogs = [name for name in relatives(listing) if name.startswith("Dog")]
    assert dogs == [
        f"Dog/{n}" for n in ("5.bmp", "a/2.jpg", "a b/3.jpg", "a-b/3.jpg", "a/c/4.jpg", "z/1.jpg")
    ]


def test_order_does_not_come_from_the_disk(tmp_path, monkeypatch):
    root = make(tmp_path / "data", *(f"c{i % 3}/{i:02}.png" for i in range(30)))
    expected = relatives(scan(root))
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(real(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert relatives(scan(root)) == expected == sorted(expected)


def test_links_to_folders_and_files_are_followed(tmp_path):
    root = make(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    outside = make(tmp_path / "elsewhere", "deep/3.jpg", "4.jpg")
    (root / "c").symlink_to(outside)
    (root / "a/inner").symlink_to(outside / "deep")
    (root / "b/5.jpg").symlink_to(outside / "4.jpg")
    (root / "b/broken.jpg").symlink_to(outside / "gone.jpg")  # listed there too; decode says why
    assert len(assert_like_image_folder(root).sources) == 7


def test_link_loops_end(tmp_path):
    root = make(tmp_path / "data", "a/x/1.jpg", "b/2.jpg")
    (root / "a/x/up").symlink_to("..")
    (root / "a/self").symlink_to("self")
    (root / "a/root").symlink_to(root)
    (root / "b/all").symlink_to("/")
    (root / "b/other").symlink_to(root / "a")  # followed: it is not around b
    (root / "a/other").symlink_to(root / "b")
    (root / "c").symlink_to(root)
    assert relatives(scan(root)) == [
        "a/other/2.jpg", "a/x/1.jpg", "b/2.jpg", "b/other/x/1.jpg",
    ]  # fmt: skip
    assert scan(root).classes == ("a", "b", "c")


def test_hidden_names_are_passed_over(tmp_path):
    root = make(
        tmp_path / "data", "a/1.jpg", "a/._1.jpg", ".cache/2.jpg", "a/.x/3.jpg", ".DS_Store"
    )
    listing = scan(root)
    assert relatives(listing) == ["a/1.jpg"]
    assert listing.classes == ("a",)
    assert listing.ignored == 0


# --- shapes of folders ----------------------------------------------------------------------


def test_flat_folder_has_no_labels(tmp_path):
    root = make(tmp_path / "data", "b.jpg", "a.png", "notes.txt", "sub/readme.txt", "void/")
    listing = scan(root)
    assert listing == Listing(
        root,
        (Source(root / "a.png", "a.png", None, None), Source(root / "b.jpg", "b.jpg", None, None)),
        (),
        2,
        ("sub/readme.txt", "notes.txt"),
    )


def test_class_folders_win_over_images_beside_them(tmp_path):
    root = make(tmp_path / "data", "preview.jpg", "LICENSE", "a/deep/down/1.jpg", "b/")
    listing = scan(root)
    assert relatives(listing) == ["a/deep/down/1.jpg"]
    assert listing.classes == ("a", "b")
    assert listing.ignored == 2


def test_single_file(tmp_path):
    root = make(tmp_path, "test/photo")
    path = root / "test/photo"
    assert scan(path) == Listing(root / "test", (Source(path, "photo", None, None),), (), 0)
    with pytest.raises(UsageError, match="no split"):
        scan(path, split="test")


@pytest.mark.parametrize("text", [True, False])
def test_root_may_be_relative(tmp_path, monkeypatch, text):
    make(tmp_path / "data", "a/1.jpg")
    monkeypatch.chdir(tmp_path)
    listing = scan("data" if text else Path("data"))
    assert listing.root == Path("data")
    assert listing.sources[0].path == Path("data/a/1.jpg")
    monkeypatch.chdir(tmp_path / "data")
    assert relatives(scan(Path())) == ["a/1.jpg"]


# --- splits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("other", ["val", "valid", "Validation", "test", "Testing"])
def test_only_the_train_split_by_default(tmp_path, train, other):
    root = make(
        tmp_path / "data", f"{train}/b/1.jpg", f"{train}/a/2.jpg", f"{other}/a/3.jpg", "x/4.jpg"
    )
    listing = scan(root)
    assert relatives(listing) == [f"{train}/a/2.jpg", f"{train}/b/1.jpg"]
    assert {source.split for source in listing.sources} == {train}
    assert listing.classes == ("a", "b")
    assert listing.root == root
    assert listing.sources[0].path == root / train / "a/2.jpg"


def test_a_split_by_name(tmp_path):
    root = make(tmp_path / "data", "train/a/1.jpg", "Validation/a/2.jpg", "test/3.jpg")
    assert relatives(scan(root, "train")) == ["train/a/1.jpg"]
    assert relatives(scan(root, "validation")) == ["Validation/a/2.jpg"]
    flat = scan(root, "test")
    assert flat.sources == (Source(root / "test/3.jpg", "test/3.jpg", None, "test"),)
    assert flat.classes == ()


def test_order_inside_a_split_equals_image_folder(tmp_path):
    root = make(
        tmp_path / "data", "train/b/x/1.jpg", "train/b/0.jpg", "train/a/2.jpg", "test/a/3.jpg"
    )
    theirs = ImageFolder(root / "train")
    assert [str(source.path) for source in scan(root).sources] == [
        path for path, _ in theirs.samples
    ]
    assert_like_image_folder(root / "train")


@pytest.mark.parametrize("kept", ["val", "valid", "validation", "test", "Test", "testing"])
def test_kept_splits_are_left_alone_unless_named(tmp_path, kept):
    root = make(tmp_path / "data", f"{kept}/a/1.jpg")
    with pytest.raises(UsageError, match=f"left alone.*--split {kept}"):
        scan(root)
    with pytest.raises(UsageError, match=f"left alone.*--split {kept}"):
        scan(root / kept)
    (tmp_path / "alias").symlink_to(root / kept)
    with pytest.raises(UsageError, match="left alone"):
        scan(tmp_path / "alias")
    with pytest.raises(UsageError, match="left alone"):
        scan(root / kept, "none")
    assert relatives(scan(root, kept)) == [f"{kept}/a/1.jpg"]
    inside = scan(root / kept, kept)
    assert inside.sources == (Source(root / kept / "a/1.jpg", "a/1.jpg", "a", kept),)


def test_a_link_named_like_a_kept_split_counts(tmp_path):
    (tmp_path / "test").symlink_to(make(tmp_path / "data", "a/1.jpg"))
    with pytest.raises(UsageError, match="left alone"):
        scan(tmp_path / "test")


def test_kept_split_is_recognized_from_inside(tmp_path, monkeypatch):
    root = make(tmp_path / "data", "test/a/1.jpg")
    monkeypatch.chdir(root / "test")
    with pytest.raises(UsageError, match="left alone"):
        scan(Path())


def test_unknown_split_names_what_there_is(tmp_path):
    root = make(tmp_path / "data", "train/1.jpg", "validation/2.jpg")
    with pytest.raises(
        UsageError,
        match=r"no split 'validatoin' \(available: train, validation\) did you mean 'validation'\?",
    ):
        scan(root, "validatoin")
    with pytest.raises(UsageError, match=r"no split 'test' \(it has none\)"):
        scan(make(tmp_path / "plain", "a/1.jpg"), "test")
    with pytest.raises(UsageError, match=r"no split 'test' \(available: train\)"):
        scan(root / "train", "test")


def test_the_train_folder_itself(tmp_path):
    root = make(tmp_path / "data", "train/a/1.jpg", "test/a/2.jpg")
    assert scan(root / "train").sources == (
        Source(root / "train/a/1.jpg", "a/1.jpg", "a", "train"),
    )


def test_a_class_named_like_a_split_is_not_guessed_at(tmp_path):
    root = make(tmp_path / "data", "airplane/1.jpg", "bus/2.jpg", "train/3.jpg")
    with pytest.raises(UsageError, match="may be a split or a class"):
        scan(root)
    assert scan(root, "none").classes == ("airplane", "bus", "train")
    assert relatives(scan(root, "train")) == ["train/3.jpg"]
    # Beside folders without images it can only be the split.
    assert relatives(scan(make(tmp_path / "other", "labels/1.txt", "train/3.jpg"))) == [
        "train/3.jpg"
    ]


# --- what cannot be used --------------------------------------------------------------------


def test_missing_and_empty(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        scan(tmp_path / "missing")
    with pytest.raises(UsageError, match="no such file or folder"):
        scan(make(tmp_path, "file") / "file/below")
    with pytest.raises(DataError, match="no image in it"):
        scan(make(tmp_path, "empty/") / "empty")
    with pytest.raises(DataError, match="2 other files"):
        scan(make(tmp_path / "texts", "a/1.txt", "2.txt"))
    with pytest.raises(DataError, match="train: no image in it"):
        scan(make(tmp_path / "splits", "train/", "test/1.jpg"))
    with pytest.raises(DataError, match="not a usable path"):
        scan(Path("nul\0byte"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        scan(tmp_path / "pipe")


def test_folder_that_may_not_be_read(tmp_path, monkeypatch):
    root = make(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    real = os.scandir

    def denied(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="b: no permission to read"):
        scan(root)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows any bytes in a name")
def test_names_that_are_not_utf8(tmp_path):
    root = make(tmp_path / "data", "a/1.jpg")
    Path(os.fsdecode(os.fsencode(root) + b"/a/caf\xe9.jpg")).write_bytes(b"")
    with pytest.raises(DataError, match=r"caf\\xe9\.jpg' is not UTF-8"):
        scan(root)


def test_many_files_are_listed_quickly(tmp_path):
    root = make(tmp_path / "data", *(f"c{i % 10}/{i}.png" for i in range(3000)))
    assert len(assert_like_image_folder(root).sources) == 3000
