"""Readers: the right images in the right split, no pickles, and messages that name what is wrong."""

from __future__ import annotations

import csv
import hashlib
import io
import struct
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sparsesvm._files import load_arrays
from sparsesvm.meta import Arrays, ClassFolders, DataError, Digits, ImageSet, Omniglot
from sparsesvm.meta.images import read_image


def draw(path, value, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value,) * 3).save(path)


def test_a_folder_per_class_is_split_by_shares(tmp_path):
    for number in range(10):
        draw(tmp_path / f"class {number}" / "0.png", number)
    reader = ClassFolders(str(tmp_path), split=(0.6, 0.2, 0.2))
    parts = [reader.read(split).class_names for split in ("train", "val", "test")]
    assert [len(names) for names in parts] == [6, 2, 2]
    assert len({name for names in parts for name in names}) == 10
    assert parts[0] == sorted(parts[0]) != [f"class {number}" for number in range(6)]
    with pytest.raises(DataError, match="A folder per class and no more is read with `split`"):
        ClassFolders(str(tmp_path)).read("val")
    draw(tmp_path / "train" / "a" / "0.png", 0)
    with pytest.raises(DataError, match=r"this root holds train\. Leave split out"):
        reader.read("train")
    with pytest.raises(ValueError, match="three shares"):
        ClassFolders(str(tmp_path), split=(0.5, 0.5))


def test_digits_are_split_without_sharing_images_or_test_classes():
    train, val, test = (Digits().read(split) for split in ("train", "val", "test"))
    assert train.class_names == val.class_names == ["0", "1", "2", "3", "4"]
    assert test.class_names == ["5", "6", "7", "8", "9"]
    assert len(train) + len(val) + len(test) == 1797
    seen = {train.images[i].numpy().tobytes() for i in range(len(train))}
    shared = sum(val.images[i].numpy().tobytes() in seen for i in range(len(val)))
    assert shared < 5  # the data hold a few identical scans
    image, label = test[3]
    assert image.shape == (1, 8, 8)
    assert 0 <= image.min() <= image.max() <= 1
    assert 0 <= label < 5


@pytest.fixture
def folders(tmp_path):
    for split, classes in (("train", "ab"), ("val", "cd"), ("test", "ef")):
        for value, name in enumerate(classes):
            for number in range(3):
                draw(tmp_path / split / name / f"{number}.png", 40 * value + number)
    return tmp_path


def test_class_folders_are_read(folders):
    images = ClassFolders(str(folders), size=4).read("val")
    assert images.class_names == ["c", "d"]
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    loaded = images.load(np.array([4, 0]))
    assert loaded.shape == (2, 3, 4, 4)
    torch.testing.assert_close(loaded[0], torch.full((3, 4, 4), 41 / 255))
    inverted = ClassFolders(str(folders), size=4, channels=1, invert=True).read("val").load(np.array([4]))
    torch.testing.assert_close(inverted, torch.full((1, 1, 4, 4), (255 - 41) / 255))


GREY = np.linspace(0, 255, 32 * 24).round().astype(np.uint8).reshape(24, 32)
DEEP = np.linspace(0, 65535, 32 * 24).round().astype(np.uint16).reshape(24, 32)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
CLEAR = np.where(np.arange(32) < 16, 0, 255).astype(np.uint8) * np.ones((24, 1), np.uint8)  # the left half is transparent


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(depth, colour, rows, extra=b"", size=(32, 24)):
    """A PNG file as other programs write it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def tiff(pixels, **tags):
    """A TIFF file of 32 x 24 pixels with any BitsPerSample, PhotometricInterpretation, SamplesPerPixel, ..."""
    numbers = {"bits": 258, "photometric": 262, "samples": 277, "extra": 338, "format": 339}
    entries = {256: [32], 257: [24], 259: [1], 277: [1], 278: [24], 279: [len(pixels)]}
    entries |= {numbers[name]: value if isinstance(value, list) else [value] for name, value in tags.items()}
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    values = {tag: struct.pack(f"<{len(value)}H", *value) for tag, value in entries.items()}
    beyond = b"".join(value for _, value in sorted(values.items()) if len(value) > 4)
    directory, place = b"", start
    for tag in sorted([*entries, 273]):
        if tag == 273:
            directory += struct.pack("<HHII", tag, 4, 1, start + len(beyond))
        elif len(values[tag]) > 4:
            directory += struct.pack("<HHII", tag, 3, len(entries[tag]), place)
            place += len(values[tag])
        else:
            directory += struct.pack("<HHI", tag, 3, len(entries[tag])) + values[tag].ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(entries) + 1) + directory + struct.pack("<I", 0) + beyond + pixels


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def transparent(white):
    return np.where(CLEAR > 0, white, 255)


TWELVE = (DEEP // 16).reshape(-1, 2).astype(int)
PALETTE = Image.fromarray(GREY // 64)
PALETTE.putpalette([0, 0, 0, 80, 80, 80, 160, 160, 160, 240, 240, 240])
EXACT = {"lossless": True, "exact": True}
FINE = {"quality": 100, "subsampling": 0}
PICTURES = {
    "1 bit": (saved(Image.fromarray(GREY).point(lambda v: 255 * (v > 127)).convert("1")), 255 * (GREY > 127)),
    "2 bits": (png(2, 0, [np.packbits(np.unpackbits(r[:, None], axis=1)[:, 6:]) for r in GREY // 64]), GREY // 64 * 85),
    "8 bits": (saved(Image.fromarray(GREY)), GREY),
    "8 bits, white is zero": (tiff(GREY.tobytes(), bits=8, photometric=0), 255 - GREY),
    "12 bits": (
        tiff(
            np.stack([TWELVE[:, 0] >> 4, (TWELVE[:, 0] % 16 << 4) + (TWELVE[:, 1] >> 8), TWELVE[:, 1] % 256], 1)
            .astype(np.uint8)
            .tobytes(),
            bits=12,
            photometric=1,
        ),
        DEEP // 16 / 4095 * 255,
    ),
    "16 bits": (saved(Image.fromarray(DEEP)), DEEP / 257),
    "16 bits of TIFF": (saved(Image.fromarray(DEEP), "TIFF"), DEEP / 257),
    "16 bits, other byte order": (saved(Image.fromarray(DEEP.astype(">u2")), "TIFF"), DEEP / 257),
    "16 bits, white is zero": (tiff(DEEP.tobytes(), bits=16, photometric=0), 255 - DEEP / 257),
    "16 bits of PGM": (saved(Image.fromarray(DEEP), "PPM"), DEEP / 257),
    "10 bits of PGM": (b"P5 32 24 1023\n" + (DEEP // 64).astype(">u2").tobytes(), DEEP // 64 / 1023 * 255),
    "16 bits and alpha": (
        png(16, 4, np.stack([DEEP, 257 * CLEAR.astype(np.uint16)], -1).astype(">u2")),
        transparent(DEEP / 257),
    ),
    "16 bits, one transparent": (
        saved(Image.fromarray(DEEP), transparency=int(DEEP[3, 3])),
        np.where(DEEP[3, 3] == DEEP, 255, DEEP / 257),
    ),
    "colour": (saved(Image.fromarray(COLOUR)), COLOUR),
    "colour of 16 bits": (png(16, 2, COLOUR.astype(">u2") * 257), COLOUR),
    "palette": (saved(PALETTE), GREY // 64 * 80),
    "palette, one transparent": (saved(PALETTE, transparency=0), np.array([255, 80, 160, 240])[GREY // 64]),
    "palette of GIF, one transparent": (saved(PALETTE, "GIF", transparency=0), np.array([255, 80, 160, 240])[GREY // 64]),
    "palette with alphas": (saved(PALETTE, transparency=bytes([0, 255, 128, 255])), np.array([255, 80, 208, 240])[GREY // 64]),
    "grey, one transparent": (saved(Image.fromarray(GREY), transparency=0), np.where(GREY == 0, 255, GREY)),
    "black on nothing": (saved(Image.fromarray(np.dstack([0 * COLOUR, CLEAR]))), transparent(0)),
    "black on nothing, WebP": (saved(Image.fromarray(np.dstack([0 * COLOUR, CLEAR])), "WEBP", **EXACT), transparent(0)),
    "grey with alpha": (saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(CLEAR)])), transparent(GREY)),
    "grey that is multiplied by alpha": (
        tiff(np.stack([GREY // 2, 0 * GREY + 128], -1).tobytes(), bits=[8, 8], photometric=1, samples=2, extra=1),
        GREY // 2 + 127,
    ),
    "CMYK": (saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", **FINE), COLOUR),
    "YCbCr": (saved(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), COLOUR),
    "CIELAB": (
        saved(Image.fromarray(COLOUR).convert("LAB"), "TIFF"),
        np.asarray(Image.fromarray(COLOUR).convert("LAB").convert("RGB")),
    ),
    "telephone": (
        saved(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))], **FINE),
        COLOUR,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_depth_and_mode_is_read_as_a_viewer_shows_it(tmp_path, name):
    content, expected = PICTURES[name]
    (tmp_path / "a.png").write_bytes(content)  # what a file holds says of what kind it is, not its name
    expected = expected if expected.ndim == 3 else np.stack([expected] * 3, -1)
    found = read_image(tmp_path / "a.png", None, 3).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=3)
    grey = read_image(tmp_path / "a.png", None, 1)[0].numpy()
    np.testing.assert_allclose(grey, expected @ [0.299, 0.587, 0.114], atol=4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_photographs_are_upright(tmp_path, kind, orientation, undo):
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[:16], photo[:, :8] = 255, 128
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = FINE if kind == "JPEG" else EXACT if kind == "WEBP" else {}
    (tmp_path / "a.jpg").write_bytes(saved(Image.fromarray(photo).transpose(undo), kind, exif=tags, **options))
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg", None, 3).permute(1, 2, 0).numpy(), photo, atol=4)


FRAMES = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
REFUSED = {
    "animated GIF": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "several frames or pages. Save the one"),
    "animated PNG": (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "animated WebP": (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "pages": (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "floating-point": (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point, signed or of 32 bits"),
    "32 bits": (saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "Save it with 8 or 16 bits for each colour"),
    "signed 16 bits": (tiff(DEEP.tobytes(), bits=16, photometric=1, format=2), "floating-point, signed or of 32 bits"),
    "signed 8 bits": (tiff(GREY.tobytes(), bits=8, photometric=1, format=2), "floating-point, signed or of 32 bits"),
    "4 bits, one transparent": (
        png(4, 0, GREY[:, ::2], chunk(b"tRNS", struct.pack(">H", 3))),
        "one of its colours means transparent, at a depth that is misread. Save it with an alpha channel",
    ),
    "colour of 16 bits, one transparent": (
        png(16, 2, COLOUR.astype(">u2") * 257, chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0))),
        "one of its colours means transparent",
    ),
    "beyond Pillow's limit": (png(8, 0, GREY, size=(20000, 20000)), "exceeds limit of .* pixels"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
    "nothing": (b"", "cannot identify image file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_cannot_be_read_rightly_is_refused_by_name(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png cannot be read as an image: .*{message}"):
        ClassFolders(str(tmp_path)).open([tmp_path / "a.png"])


def test_the_middle_of_a_strip_is_one_of_its_pixels(tmp_path):
    """Resized whole it would be 64 x 3,840,000 pixels large."""
    Image.fromarray(((np.arange(60000) + 50) // 100 % 256).astype(np.uint8)[None]).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", 64, 1)
    assert found.shape == (1, 64, 64)
    assert (found == 300 % 256).all()


def test_split_tables_and_lists_of_classes_are_read(tmp_path):
    draw(tmp_path / "images" / "x1.png", 5)
    draw(tmp_path / "images" / "y1.jpg", 9)
    with open(tmp_path / "train.csv", "w", newline="") as opened:
        csv.writer(opened).writerows([["filename", "label"], ["x1.png", "x"], ["y1.jpg", "y"]])
    draw(tmp_path / "data" / "z" / "1.png", 7)
    (tmp_path / "val.txt").write_text("z\n")
    reader = ClassFolders(str(tmp_path), size=6)
    assert reader.read("train").class_names == ["x", "y"]
    assert reader.read("val").class_names == ["z"]
    with pytest.raises(DataError, match=r"no test split in .*: neither folder test/ nor file test\.csv nor test\.txt"):
        reader.read("test")


def test_hidden_and_system_files_are_neither_images_nor_classes(folders):
    for name in (".DS_Store", "train/._a", "train/a/._0.png", "train/a/Thumbs.db", "train/a/notes.txt", "train/README"):
        (folders / name).write_bytes(b"\x00\x05\x16\x07")
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "a/.cache", "a/folder.png"):
        draw(folders / "train" / name / "0.png", 0)
    images = ClassFolders(str(folders), size=4).read("train")
    assert images.class_names == ["a", "b"]
    assert images.load(np.arange(6))[:, 0, 0, 0].tolist() == pytest.approx([v / 255 for v in (0, 1, 2, 40, 41, 42)])
    (folders / "train" / "a" / "9.heic").touch()
    with pytest.raises(DataError, match=r"a/9\.heic is of a kind that is not read \(\.png, .*\)\. Convert or remove it"):
        ClassFolders(str(folders)).read("train")
    (folders / "train" / "a" / "9.heic").unlink()
    (folders / "train" / "a" / "9.png").symlink_to("absent.png")
    with pytest.raises(DataError, match=r"a/9\.png cannot be read as an image: .*No such file"):
        ClassFolders(str(folders)).read("train").load(np.array([3]))


NAMES = ["golden retriever", "cafe\u0301", "caf\xe9 noir", "Stra\xdfe, rechts", "3"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_classes_are_read_as_other_programs_write_them(tmp_path, encoding, form, end):
    for name in NAMES:
        draw(tmp_path / "images" / name / "0.png", 7)
    (tmp_path / "train.txt").write_bytes(unicodedata.normalize(form, end.join(["", *NAMES, "  ", ""])).encode(encoding))
    images = ClassFolders(str(tmp_path)).read("train")
    assert images.class_names == [unicodedata.normalize(form, name) for name in NAMES]
    assert len(images) == len(NAMES)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "content",
    [
        "filename,label\nx/1.png,golden retriever\ny 2.png,\xe9\n",
        "filename;label\r\nx/1.png;golden retriever\r\n\r\ny 2.png;\xe9\r\n;\r\n",
        "Filename\tLabel\nx/1.png\tgolden retriever\ny 2.png\t\xe9",
        ',label,"Filename"\n0,"golden retriever","x/1.png"\n1,"\xe9","y 2.png"\n',
        "filename, label\nx\\1.png , golden retriever\nx/1.png, golden retriever\ny 2.png, \xe9\n",
    ],
)
def test_tables_are_read_as_other_programs_write_them(tmp_path, encoding, content):
    draw(tmp_path / "images" / "x" / "1.png", 5)
    draw(tmp_path / "images" / "y 2.png", 9)
    (tmp_path / "train.csv").write_bytes(content.encode(encoding))
    images = ClassFolders(str(tmp_path)).read("train")
    assert images.class_names == ["golden retriever", "\xe9"]
    assert images.labels.tolist() == [0, 1]
    assert [path.name for path in images.images.paths] == ["1.png", "y 2.png"]


def test_wrong_folders_are_named(folders, tmp_path):
    with pytest.raises(DataError, match=r"root must be a folder of images; .*absent is not there"):
        ClassFolders(str(tmp_path / "absent")).read("train")
    (folders / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"class folder .*empty holds no images .* Fill or remove it"):
        ClassFolders(str(folders)).read("train")
    (folders / "test" / "e" / "0.png").write_bytes(b"no image")
    images = ClassFolders(str(folders)).read("test")
    with pytest.raises(DataError, match=r"e/0\.png cannot be read as an image"):
        images.load(np.array([0]))
    whole = (folders / "test" / "e" / "1.png").read_bytes()
    (folders / "test" / "e" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"e/1\.png cannot be read as an image"):
        images.load(np.array([1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nx.png,x\n", r"must have the columns filename,label; got \['file', 'label'\]"),
        ("filename,label\nx.png,x\n", r"names x\.png, which is not in"),
        ("filename,label\n", r"names no images"),
        ("", r"must have the columns filename,label; got \[\]"),
        ("filename,label\nx.png\n", r"lacks a filename or a label in line 2: \['x.png'\]"),
        ("filename,label\ntrain.png,a\ntrain.png,b\n", r"gives train\.png two labels, a and b"),
        ("filename,label\n" + 200_000 * "a", r"cannot be read as a table, line 2: field larger than field limit"),
        (b"filename,label\ncaf\xe9.png,a\n", r"train\.csv must be text in UTF-8: .* Save it so"),
    ],
)
def test_wrong_tables_are_named(tmp_path, content, message):
    draw(tmp_path / "images" / "train.png", 5)
    (tmp_path / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        ClassFolders(str(tmp_path)).read("train")


def test_a_class_without_a_folder_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("dog\n")
    with pytest.raises(DataError, match="names class dog, which has no folder in"):
        ClassFolders(str(tmp_path)).read("train")


def arrays(path, **changes):
    content = {
        "images": np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4),
        "labels": np.array([3, 3, 8, 8]),
        "split": np.array(["train", "train", "test", "test"]),
    } | changes
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return str(path)


def test_arrays_are_read(tmp_path):
    images = Arrays(arrays(tmp_path / "a.npz")).read("test")
    assert images.class_names == ["8"]
    assert images.images.shape == (2, 1, 4, 4)
    by_number = Arrays(arrays(tmp_path / "b.npz", split=np.array([0, 0, 2, 2]))).read("test")
    torch.testing.assert_close(by_number.images, images.images)
    images = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    strange = {
        "images": images[:, ::-1],
        "labels": np.array([b"cat", b"cat", "r\xe9".encode(), "r\xe9".encode()])[:, None],
        "split": np.array([b"train", b"train", b"test", b"test"]),
    }
    found = Arrays(arrays(tmp_path / "e.npz", **strange)).read("test")
    assert found.class_names == ["r\xe9"]
    np.testing.assert_array_equal(found.images[:, 0], images[2:, ::-1])
    black_and_white = Arrays(arrays(tmp_path / "f.npz", images=images > 9)).read("train")
    np.testing.assert_array_equal(black_and_white.images[:, 0], 255 * (images > 9)[:2])
    colour = np.zeros((4, 5, 5, 3), np.uint8)
    assert Arrays(arrays(tmp_path / "c.npz", images=colour, split=None)).read("train").images.shape == (4, 3, 5, 5)
    torch.save({"images": torch.zeros(2, 3, 5, 5, dtype=torch.uint8), "labels": torch.tensor([0, 1])}, tmp_path / "d.pt")
    assert len(Arrays(str(tmp_path / "d.pt")).read("val")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"must hold the arrays images, labels; it lacks labels and has images, split"),
        ({"split": np.array(["train"] * 4)}, r"no images of split 'test'; its splits are \['train'\]"),
        ({"labels": np.array([3, 8, 8, 8])}, r"class 8 is in 'test' and in another split"),
        ({"images": np.zeros((4, 4, 4))}, r"images must be uint8 with 3 or 4 dimensions; got float64 .* convert with .astype"),
        ({"images": np.zeros((4, 4, 4, 4), np.uint8)}, r"images must have 1 or 3 channels; got shape \(4, 4, 4, 4\)"),
        ({"labels": np.array([3, 3, 8])}, r"labels must have shape \(4,\), one for each sample; got \(3,\)"),
        ({"split": np.array(["train", "test"])}, r"split must have shape \(4,\)"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        Arrays(arrays(tmp_path / "a.npz", **changes)).read("test")


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, images=np.array([{"a": 1}], dtype=object), labels=np.array([0]))
    with pytest.raises(DataError, match="cannot be read as arrays: Object arrays cannot be loaded when allow_pickle=False"):
        Arrays(str(path)).read("train")
    torch.save({"images": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(DataError, match="cannot be read as arrays"):
        Arrays(str(tmp_path / "bomb.pt")).read("train")
    assert not Bomb.gone_off
    with pytest.raises(DataError, match=r"arrays are read from \.npz and \.pt files"):
        load_arrays(__file__, ())
    with pytest.raises(DataError, match="there is no file"):
        load_arrays(tmp_path / "absent.npz", ())


class Bomb:
    gone_off = False

    def __reduce__(self):
        return setattr, (Bomb, "gone_off", True)


def omniglot(path, **changes):
    """Two alphabets of two characters, three drawings each, as the real file stores them."""
    ink = np.random.default_rng(0).random((12, 105, 105)) < 0.1
    content = {
        "images105_packed": np.packbits(ink.reshape(12, -1), axis=1),
        "character": np.repeat(np.arange(4), 3).astype(np.int16),
        "alphabet": np.repeat([0, 1], 6).astype(np.int8),
        "character_names": np.array(["A/character01", "A/character02", "B/character01", "B/character02"]),
        "alphabet_names": np.array(["A", "B"]),
        "alphabet_split": np.array([0, 2], np.int8),
    } | changes
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return str(path), ink


def test_omniglot_arrays_are_shrunk_by_area_and_grouped_by_alphabet(tmp_path):
    path, ink = omniglot(tmp_path / "o.npz")
    test = Omniglot(path, size=35).read("test")
    assert test.class_names == ["B/character01", "B/character02"]
    assert test.class_groups == [1, 1]
    expected = ink[6:].reshape(6, 35, 3, 35, 3).mean((2, 4)) * 255
    np.testing.assert_allclose(test.images[:, 0].numpy(), expected, atol=0.5 + 1e-3)
    both = Omniglot(path, train=["B", "A"]).read("train")
    assert both.images.shape == (12, 1, 28, 28)
    assert both.class_groups == [0, 0, 1, 1]
    # An average over areas keeps the amount of ink.
    assert both.images.float().mean() / 255 == pytest.approx(ink.mean(), rel=5e-3)
    with pytest.raises(DataError, match=r"val must name alphabets that are in .*\['A', 'B'\]; got \['C'\]"):
        Omniglot(path, val=["C"]).read("val")
    unsplit, _ = omniglot(tmp_path / "u.npz", alphabet_split=None)
    with pytest.raises(DataError, match="does not say how to split; give train as a list of alphabets"):
        Omniglot(unsplit).read("train")


def official(root, part, alphabets):
    for alphabet in alphabets:
        for character in ("character01", "character02"):
            for number in range(2):
                draw(root / part / alphabet / character / f"{number}.png", 255, (105, 105), "L")


def test_official_omniglot_folders_are_read(tmp_path):
    official(tmp_path, "images_background", list("abcdefg"))
    official(tmp_path, "images_evaluation", ["x"])
    reader = Omniglot(str(tmp_path))
    assert {name[0] for name in reader.read("train").class_names} == set("abcdeg")
    assert {name[0] for name in reader.read("val").class_names} == {"f"}
    test = reader.read("test")
    assert test.class_names == ["x/character01", "x/character02"]
    assert test.images.max() == 0  # white paper holds no ink
    with pytest.raises(DataError, match=r"neither images_background/ nor images_evaluation/.*set download"):
        Omniglot(str(tmp_path / "absent")).read("train")


def test_a_download_is_checked(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    official(tmp_path / "source", "images_background", ["a"])
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted((tmp_path / "source").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "source"))
    content = buffer.getvalue()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(content))
    reader = Omniglot(str(tmp_path / "root"), train=["a"], download=True)
    with pytest.raises(DataError, match=r"MD5 sum .* where 68d2efa1b9178cc56df9314c21c6e718 is expected; nothing is kept"):
        reader.read("train")
    assert not list((tmp_path / "root").iterdir())
    monkeypatch.setattr(Omniglot, "_MD5", {"images_background": hashlib.md5(content).hexdigest()})
    assert len(reader.read("train")) == 4

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match=r"cannot download .*no route to host.*by hand"):
        Omniglot(str(tmp_path / "other"), download=True).read("train")


def test_the_wrong_split_and_image_sets_are_refused():
    with pytest.raises(ValueError, match="split must be one of train, val, test; got 'all'"):
        Digits().read("all")
    picture = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    for arguments, message in (
        ((picture.float(), [0, 1], ["a", "b"]), "images must be uint8"),
        ((picture, [0], ["a"]), "as many; got 2 and 1"),
        ((picture, [0, 0], ["a", "b"]), r"every class present; got counts \[2, 0\]"),
        ((picture, [-1, 0], ["a"]), "labels must be 0 to 0; got -1"),
        ((picture, ["a", "b"], ["a", "b"]), r"labels must be integers; got <U1\. numpy.unique\(labels, return_inverse=True\)"),
        ((picture, [0.0, 0.7], ["a"]), r"labels must be integers; got float64"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageSet(*arguments)
    with pytest.raises(DataError, match="Digits does not read single image files"):
        Digits().open([])
