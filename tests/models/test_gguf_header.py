"""A GGUF file that claims more than it holds is refused before anything of that size is made."""

import struct
import time
from pathlib import Path

import pytest

import mechsteer as ms
from mechsteer.models.checkpoint.gguf_header import tensor_shapes
from tests.fuzz.gguf_model import write

pytest.importorskip("gguf")
UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9


def text(value: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value.encode()


def header(*values: bytes, tensors: bytes = b"", n_values: int | None = None, n_tensors: int = 0) -> bytes:
    counts = struct.pack("<QQ", n_tensors, len(values) if n_values is None else n_values)
    return b"GGUF" + struct.pack("<I", 3) + counts + b"".join(values) + tensors + bytes(64)


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return text("a") + struct.pack("<IIQ", ARRAY, kind, count) + content


def tensor(*shape: int, dimensions: int | None = None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return text("t") + struct.pack(f"<I{len(shape)}QIQ", count, *shape, 0, 0)


ABSURD = {
    "numbers": header(array(UINT8, 10**12)),
    "texts": header(array(STRING, 10**12)),
    "arrays": header(array(ARRAY, 10**12)),
    "a text": header(text("a") + struct.pack("<I", STRING) + text("x", 2**63)),
    "a name": header(text("a", 2**64 - 1)),
    "values": header(n_values=2**40),
    "tensors": header(n_tensors=2**40),
    "a tensor": header(tensors=tensor(2**20, 2**20), n_tensors=1),
    "a tensor whose size overflows": header(tensors=tensor(2**32, 2**32), n_tensors=1),
    "dimensions": header(tensors=tensor(1, dimensions=2**31), n_tensors=1),
    "nested arrays": header(text("a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000),
    "an unknown type": header(text("a") + struct.pack("<I", 77)),
    "nothing": b"",
    "half a number": header()[:20],
}


@pytest.mark.parametrize("name", ABSURD)
def test_what_cannot_be_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(ABSURD[name])
    for read in (tensor_shapes, ms.load, ms.Direction.from_gguf):
        began = time.process_time()
        with pytest.raises(ms.MechsteerError, match="is not a readable GGUF file") as caught:
            read(path)
        assert time.process_time() - began < 2 and len(str(caught.value)) < 500


def test_the_shapes_are_those_of_the_reader(tmp_path: Path) -> None:
    import gguf

    path = write(tmp_path / "m.gguf")
    wanted = {tensor.name: tuple(map(int, tensor.shape)) for tensor in gguf.GGUFReader(path).tensors}
    assert tensor_shapes(path) == wanted and len(wanted) == 12


@pytest.mark.parametrize(("key", "size"), [("block_count", 10**6), ("feed_forward_length", 10**8)])
def test_a_size_that_the_weights_do_not_have_is_refused(key: str, size: int, tmp_path: Path, unchecked: None) -> None:
    path = write(tmp_path / "m.gguf")
    content, name = path.read_bytes(), f"llama.{key}".encode()
    at = content.index(name) + len(name) + 4
    path.write_bytes(content[:at] + struct.pack("<I", size) + content[at + 4 :])
    with pytest.raises(ms.MechsteerError, match=f"{size} does not fit the weights"):
        ms.load(path)


def test_the_other_byte_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    counts = struct.pack(">IQQ", 3, 1, 0)
    info = struct.pack(">Q", 1) + b"t" + struct.pack(">IQQIQ", 2, 3, 4, 0, 0)
    path.write_bytes(b"GGUF" + counts + info + bytes(64))
    assert tensor_shapes(path) == {"t": (3, 4)}
    path.write_bytes(b"GGUF" + struct.pack("<I", 1) + bytes(64))
    assert tensor_shapes(path) == {}  # an old version, which its reader refuses
