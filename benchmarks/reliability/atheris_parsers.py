"""Coverage-guided fuzzing of the Python code that reads untrusted bytes: scans of structure, JSON, forms, bodies.

    make atheris ARGS="-max_total_time=600 -seed=1"

The first byte of an input chooses the reader. A fault is any exception but a refusal, and what libFuzzer finds by
itself: ``-timeout`` and ``-rss_limit_mb`` bound each input. atheris is installed into its own environment.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["service"]):
    from service.errors import ServiceError
    from service.http.json_image import parse_json_image
    from service.http.multipart_form import read_form_files
    from service.imaging.structure.bmp import scan_bmp
    from service.imaging.structure.gif import scan_gif
    from service.imaging.structure.isobmff import scan_isobmff
    from service.imaging.structure.jpeg import scan_jpeg
    from service.imaging.structure.png import scan_png
    from service.imaging.structure.tiff import scan_tiff
    from service.imaging.structure.webp import scan_webp
    from service.inference_protocol.body import decompress, split_body
    from service.inference_protocol.inference_request import read_inference
    from service.inference_protocol.signature import signature_of
    from service.model_directory.manifest import GraphInfo

from tests.support.honest import FILES

_BOUNDARY = "multipart/form-data; boundary=b"
_LARGEST_SEED = 20_000
_SIGNATURE = signature_of(GraphInfo("model.onnx", "0" * 64, (1, 2)), 4)
_INFERENCE = b'{"inputs":[{"name":"images","shape":[1,1,2,3],"datatype":"UINT8","data":[[[[0,1,2],[3,4,5]]]]}]}'


def _read_form(data: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        yield data[len(data) // 2 :]

    asyncio.run(read_form_files(_BOUNDARY, chunks(), "file", max_files=2))


READERS: tuple[Callable[[bytes], object], ...] = (
    scan_jpeg,
    scan_png,
    scan_gif,
    scan_bmp,
    scan_webp,
    scan_tiff,
    scan_isobmff,
    parse_json_image,
    lambda data: read_inference(data, None, _SIGNATURE, 4),
    _read_form,
    lambda data: decompress(data, "gzip", 1 << 20),
    lambda data: split_body(data[1:], data[:1].decode("latin-1")),
)
# The codec takes these for a corrupt file.
_EXPECTED = (ServiceError, struct.error, zlib.error, IndexError)


def read_one(data: bytes) -> None:
    """Let one of the readers have the bytes."""
    if data:
        with suppress(*_EXPECTED):
            READERS[data[0] % len(READERS)](data[1:])


def write_seeds(folder: Path) -> None:
    """An honest file of each format, and a text for each parser, as first inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    formats = ("jpeg", "png", "gif", "bmp", "webp", "tiff", "avif")
    for name, build in FILES.items():
        content = build()
        if name.split()[0] in formats and len(content) < _LARGEST_SEED:
            place = formats.index(name.split()[0])
            (folder / name.replace(" ", "-")).write_bytes(bytes([place]) + content)
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    texts = {7: b'{"image": "data:;base64,aGk="}', 8: _INFERENCE, 9: form}
    for place, text in texts.items():
        (folder / f"text-{place}").write_bytes(bytes([place]) + text)


def main() -> None:
    """Fuzz with the options of libFuzzer, from seeds in ``build/atheris``."""
    corpus = Path("build/atheris")
    write_seeds(corpus)
    atheris.Setup([*sys.argv, "-timeout=5", "-rss_limit_mb=2048", str(corpus)], read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
