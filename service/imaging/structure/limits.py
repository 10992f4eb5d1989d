"""Limits of the structure of an image file: how much of each kind a file may have, and why no honest file has more."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import PayloadTooLarge


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on the structure of image files of one format.

    Attributes:
        format: Format of the file, or "any".
        value: Largest number.
        unit: Noun for the counted things, in the plural.
        reason: Cost that grows with it, and what honest files have.
    """

    format: str
    value: int
    unit: str
    reason: str

    def check(self, found: int, allowance: int = 0) -> None:
        """Raises ``PayloadTooLarge`` for more than ``value`` and the allowance for a large file."""
        limit = self.value + allowance
        if found > limit:
            name = "image" if self.format == "any" else f"{self.format} image"
            raise PayloadTooLarge(
                f"the {name} has {found} or more {self.unit}, at most {limit} are accepted",
                extra={"value": found, "limit": limit, "unit": self.unit},
            )


SIDE = Limit(
    "any",
    1_000_000,
    "pixels in a side",
    "Pillow takes 0.1 us and 8 bytes for each row. JPEG has 65,535 at most, and no camera or scanner more.",
)
JPEG_MARKERS = Limit(
    "JPEG",
    4096,
    "markers before its first scan",
    "Pillow takes 2 us for each. A profile of 3 MB takes 46, a depth map of 10 MB in XMP 160.",
)
JPEG_TABLE_BYTES = Limit(
    "JPEG",
    65_536,
    "bytes of quantisation tables before its first scan",
    "Pillow takes 0.1 us for each. Four tables of 16 bits have 516.",
)
JPEG_FILL_BYTES = Limit(
    "JPEG",
    4096,
    "fill bytes before its first scan",
    "Pillow takes 0.5 us for each. Encoders write none, or align segments to 512 bytes.",
)
JPEG_FILL_RUN = Limit(
    "JPEG",
    256,
    "fill bytes in a row behind its first scan",
    "libjpeg reads a run again with each 64 KB that it gets, which is quadratic. Encoders write none.",
)
JPEG_LATE_MARKERS = Limit(
    "JPEG",
    4096,
    "markers behind its first scan",
    "Finding them takes 2 us for each. A scan has its own, and up to 8 tables.",
)
JPEG_SCANS = Limit(
    "JPEG",
    100,
    "scans",
    "Each scan passes over all blocks. libjpeg and mozjpeg write 10 to 12; libtiff stops at 100.",
)
JPEG_SCANNED_PIXELS = Limit(
    "JPEG",
    1_200_000_000,
    "pixels in all of its scans",
    "Empty scans take 1 s for them. 12 scans of 50 megapixels are 600 million.",
)
PNG_CHUNKS = Limit(
    "PNG",
    4096,
    "chunks",
    "Pillow takes 2 us for each. libpng writes 8,192 bytes into each; 1,024 bytes of the file allow one more.",
)
GIF_BLOCKS = Limit(
    "GIF",
    65_536,
    "blocks before its first frame",
    "Reading takes 0.2 us for each. XMP of 1 MB takes 13,000.",
)
TIFF_TAGS = Limit(
    "TIFF", 1024, "tags in a directory", "Pillow takes 5 us for each. TIFF 6.0 defines 74, and DNG 130 more."
)
TIFF_VALUES = Limit(
    "TIFF",
    200_000,
    "numbers in a tag",
    "Each becomes a Python object. Colour maps and transfer functions of 16 bits have 196,608.",
)
TIFF_FRACTIONS = Limit(
    "TIFF",
    1024,
    "fractions in a tag",
    "Pillow takes 2 us and 200 bytes for each. Matrices of cameras have up to 36.",
)
TIFF_STRIPS = Limit(
    "TIFF",
    65_536,
    "strips or tiles",
    "Pillow takes 2 us for each. An image of 50 megapixels in tiles of 64x64 has 12,000, in strips of one row 7,000.",
)
TIFF_SEGMENT_SIDE = Limit(
    "TIFF",
    4096,
    "pixels in a side of a tile beyond the image",
    "libtiff allocates a tile as a whole. Tiles have 128 to 1,024 pixels a side.",
)
TIFF_SEGMENT_BYTES = Limit(
    "TIFF",
    64 << 20,
    "bytes in a strip or tile beyond those of the image",
    "libtiff allocates it as a whole. Tiles of 4,096x4,096 pixels have as many.",
)
WEBP_CHUNKS = Limit(
    "WEBP",
    16_384,
    "chunks",
    "libwebp keeps a record of each. An animation has one for a frame.",
)
BMP_COLOURS = Limit("BMP", 256, "colours in its palette", "8 bits address 256; Pillow takes 0.2 us for each.")
BOXES = Limit(
    "AVIF or HEIF",
    4096,
    "boxes",
    "Reading takes 0.3 us for each. A grid of 50 megapixels has 200 tiles, and shares their properties.",
)

LIMITS = tuple(value for value in globals().values() if isinstance(value, Limit))
