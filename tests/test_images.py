"""What people drop: every common kind with the right pixels, everything else with a sentence."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from l2l_core.images import ImageError, display_name, fit_square, read_image, to_pil, to_tensor

RED, BLUE = (220, 40, 30), (20, 60, 210)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(size=(40, 20)):
    """Left red, right blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits=1, colour=0, data=b"", more=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def flipped_crc(data):
    return data[:29] + bytes([data[29] ^ 1]) + data[30:]


JPEG = encoded(halves((200, 200)), "JPEG")
PNG = encoded(halves(), "PNG")
REJECTED = {
    "empty": b"",
    "text named png": b"just some words, not a picture",
    "JPEG cut short": JPEG[:400],
    "PNG cut short": PNG[:-40],
    "flipped IHDR checksum": flipped_crc(PNG),
    "90 Mpx, 1 bit": png(10000, 9000, data=b"\0" * (9000 * 1251)),
    "182 Mpx, header only": png(13500, 13500),
    "PNG with a 2 MB text": png(
        16,
        16,
        8,
        data=b"\0" * (17 * 16),
        more=chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 2_000_000)),
    ),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n",
    "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"/>',
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "ICO": encoded(Image.new("RGB", (32, 32), RED), "ICO"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100,
    "1 x 1": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "1 x 8000": encoded(Image.new("RGB", (1, 8000)), "PNG"),
    "65535 x 1": encoded(Image.new("RGB", (65535, 1)), "PNG"),
    "too narrow": encoded(Image.new("RGB", (10, 4000)), "PNG"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_with_a_sentence(name, tmp_path):
    path = tmp_path / "secret-name.png"
    path.write_bytes(REJECTED[name])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.endswith(".") and "secret-name" not in message and str(tmp_path) not in message


def test_the_reason_is_named():
    for name, word in (
        ("HEIC", "JPEG"),
        ("90 Mpx, 1 bit", "40 million"),
        ("empty", "empty"),
        ("1 x 1", "at least"),
        ("PDF", "PNG, JPEG"),
    ):
        with pytest.raises(ImageError, match=word):
            read_image(REJECTED[name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "MPO"])
def test_damage_anywhere_is_a_sentence_or_a_picture(kind):
    """Random changes to valid files reach the far corners of the decoders."""
    data = encoded(halves((32, 24)), kind)
    rng = random.Random(kind)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        try:
            assert read_image(bytes(damaged)).image.mode == "RGB"
        except ImageError:
            refused += 1
    assert refused > 0


def test_a_missing_file_is_an_image_error(tmp_path):
    with pytest.raises(ImageError):
        read_image(tmp_path / "not there.png")


def pixel(data, place=(5, 10)):
    return read_image(data).image.getpixel(place)


def near(value, expected, by=12):
    return all(abs(a - b) <= by for a, b in zip(value, expected, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_common_kinds(kind):
    data = encoded(halves(), kind)
    assert near(pixel(data), RED, 30) and near(pixel(data, (35, 10)), BLUE, 30)


def test_avif_under_the_brand_it_shares_with_heic():
    data = encoded(halves(), "AVIF")
    assert data[8:12] == b"avif" and near(pixel(data[:8] + b"mif1" + data[12:]), RED, 30)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    upright = read_image(encoded(halves(), "JPEG", exif=exif)).image
    assert upright.size == (20, 40)
    assert near(upright.getpixel((10, 5)), RED, 40) and near(upright.getpixel((10, 35)), BLUE, 40)


def test_garbage_exif_is_ignored():
    data = encoded(halves(), "JPEG", exif=b"Exif\0\0II*\0garbage garbage garbage")
    assert near(pixel(data), RED, 30)


def test_metadata_is_gone():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    exif = Image.Exif()
    exif[0x010E] = "a place"
    for data in (encoded(halves(), "PNG", pnginfo=info), encoded(halves(), "JPEG", exif=exif)):
        image = read_image(data).image
        assert not image.info and not image.getexif()


def test_cmyk_jpeg():
    assert near(pixel(encoded(halves().convert("CMYK"), "JPEG")), RED, 40)


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.tile(np.linspace(0, 65535, 32, dtype=np.uint16), (16, 1))
    result = np.asarray(read_image(encoded(Image.fromarray(values), "PNG")).image)[8, :, 0]
    np.testing.assert_allclose(result, np.linspace(0, 255, 32), atol=1)


def test_float_tiff():
    values = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (16, 1))
    result = np.asarray(read_image(encoded(Image.fromarray(values), "TIFF")).image)[8, :, 0]
    np.testing.assert_allclose(result, np.linspace(0, 255, 32), atol=1)


def test_float_tiff_with_nan_is_refused():
    values = np.full((16, 16), np.nan, dtype=np.float32)
    with pytest.raises(ImageError):
        read_image(encoded(Image.fromarray(values), "TIFF"))


def test_transparency_goes_on_white_and_hides_what_is_under_it():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert pixel(encoded(clear, "PNG")) == (255, 255, 255)
    grey = Image.new("LA", (20, 20), (0, 0))
    assert pixel(encoded(grey, "PNG")) == (255, 255, 255)
    palette = halves((20, 20)).quantize(4)
    index = palette.getpixel((2, 2))
    data = encoded(palette, "PNG", transparency=index)
    assert pixel(data, (2, 2)) == (255, 255, 255) and near(pixel(data, (18, 2)), BLUE, 30)


def test_one_bit():
    image = Image.new("1", (20, 20), 1)
    image.paste(0, (0, 0, 10, 20))
    data = encoded(image, "PNG")
    assert pixel(data, (2, 2)) == (0, 0, 0) and pixel(data, (15, 2)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_of_an_animation_and_a_note(kind):
    first, second = Image.new("RGB", (20, 20), RED), Image.new("RGB", (20, 20), BLUE)
    loaded = read_image(encoded(first, kind, save_all=True, append_images=[second]))
    assert near(loaded.image.getpixel((5, 5)), RED, 30)
    assert loaded.notes and "first of 2" in loaded.notes[0]


def test_a_tail_after_the_picture_is_dropped():
    assert near(pixel(PNG + b"<html><script>alert(1)</script></html>"), RED)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/x.png", "x.png"),
        ("C:\\Users\\me\\x.png", "x.png"),
        ("a\u202egnp.exe", "agnp.exe"),
        ("a\0b.png", "ab.png"),
        ("", "image"),
        ("n" * 400, "n" * 60),
    ],
)
def test_names_are_made_harmless(name, shown):
    assert display_name(name) == shown


def test_tensors_and_back():
    tensor = to_tensor([halves((40, 40)), halves((80, 40))], 16)
    assert tensor.shape == (2, 3, 16, 16) and tensor.dtype == torch.float32
    assert near(to_pil(tensor)[0].getpixel((2, 8)), RED)
    assert to_tensor([], 16).shape == (0, 3, 16, 16)
    assert to_pil(torch.tensor([[-1.0, 2.0]]).expand(1, 3, 1, 2))[0].getpixel((1, 0)) == (255,) * 3


def test_fit_square_takes_the_middle():
    image = Image.new("RGB", (90, 30), BLUE)
    image.paste(RED, (30, 0, 60, 30))
    assert near(fit_square(image, 10).getpixel((1, 5)), RED)
