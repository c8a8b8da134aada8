"""Headers of SQLite databases, and how `od` prints them."""

from __future__ import annotations


def make_header(
    pages: int = 562,
    page_size: int = 4096,
    wal: bool = False,
    magic: bytes = b"SQLite format 3\0",
    is_valid: bool = True,
) -> bytes:
    """Make the first 100 bytes of a database (fileformat2.html, section 1.3), with a valid page count or not."""
    content = bytearray(100)
    content[:16] = magic
    content[16:18] = (1 if page_size == 65536 else page_size).to_bytes(2, "big")
    content[18:20] = b"\2\2" if wal else b"\1\1"
    content[24:28] = b"\0\0\0\7"
    content[28:32] = pages.to_bytes(4, "big")
    content[92:96] = b"\0\0\0\7" if is_valid else b"\0\0\0\6"
    return bytes(content)


def format_od(content: bytes) -> str:
    """Format bytes as `od -An -v -tx1` does."""
    lines = [content[start : start + 16].hex(" ") for start in range(0, len(content), 16)]
    return "".join(f" {line}\n" for line in lines)
