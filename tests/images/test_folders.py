"""Image files in folders: links, loops, and files of kinds that can't be read."""

import pytest
from PIL import Image

from diffusion_sklearn.images import _folders
from diffusion_sklearn.images._folders import images_below, read_class_folders


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    paths = [save(tmp_path / name) for name in ("a.png", "b/c.JPG", "b/d/e.webp")]
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".hidden/a.png")
    (tmp_path / "notes.txt").write_text("")
    assert images_below(tmp_path) == sorted(paths)


def test_linked_folders_are_entered(tmp_path):
    inside = save(tmp_path / "photos/a.png")
    save(tmp_path / "elsewhere/b.png")
    save(tmp_path / "elsewhere/c/d.png")
    link = tmp_path / "photos/link"
    link.symlink_to(tmp_path / "elsewhere")
    expected = [inside, link / "b.png", link / "c/d.png"]
    assert images_below(tmp_path / "photos") == expected
    # Once, however many links lead there.
    (tmp_path / "photos/more").symlink_to(tmp_path / "elsewhere")
    assert images_below(tmp_path / "photos") == expected


def test_a_loop_of_links_gives_each_file_once(tmp_path):
    paths = [save(tmp_path / name) for name in ("ant/a.png", "ant/in/b.png")]
    other = save(tmp_path / "bee/c.png")
    (tmp_path / "ant/self").symlink_to(tmp_path / "ant")
    (tmp_path / "ant/in/up").symlink_to(tmp_path)  # not the bee of an ant
    (tmp_path / "ant/in/side").symlink_to(tmp_path / "ant/in")
    assert images_below(tmp_path / "ant") == paths
    assert images_below(tmp_path) == [*paths, other]
    images, labels, _ = read_class_folders(tmp_path)
    assert images == [*paths, other] and labels == ["ant", "ant", "bee"]


def test_a_class_that_is_a_link(tmp_path):
    save(tmp_path / "elsewhere/a.png")
    save(tmp_path / "data/bee/b.png")
    (tmp_path / "data/ant").symlink_to(tmp_path / "elsewhere")
    images, labels, classes = read_class_folders(tmp_path / "data")
    assert labels == classes == ["ant", "bee"]
    assert images[0] == tmp_path / "data/ant/a.png"


def test_files_of_kinds_that_can_not_be_read_are_told(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    readable = {".png": "PNG"}  # as without pillow-heif
    monkeypatch.setattr(_folders.Image, "registered_extensions", lambda: readable)
    for name in ("b.HEIC", "c.cr2", "d.txt", ".e.heic"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "f.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"3 below .*left out: .*b\.HEIC.*\[heif\]"):
        assert images_below(tmp_path) == [path]
    (tmp_path / "b.HEIC").unlink()
    with pytest.warns(UserWarning, match=r"2 below .*c\.cr2.*f\.png") as caught:
        images_below(tmp_path)
    assert "heif" not in str(caught[0].message)


def test_a_folder_that_can_not_be_opened_is_told(tmp_path, monkeypatch):
    path, scandir = save(tmp_path / "a.png"), _folders.os.scandir
    save(tmp_path / "locked/b.png")

    def refuse(place):
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(_folders.os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"1 below .*locked"):
        assert images_below(tmp_path) == [path]
