"""How is text read that other programs and people have written? As UTF-8 or UTF-16, by its byte-order mark.

Windows' editors put such a mark before UTF-8, and its spreadsheets save "Unicode text" as UTF-16 with one.
"""

import codecs
from pathlib import Path

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
LONGEST = 4  # bytes of a mark
REMEDY = "save it as UTF-8"


class NotText(ValueError):
    """Bytes that are no text; its message says which and what to do, and is to follow the name of the file."""


def encoding_of(begin: bytes) -> str:
    """The encoding of a text that begins with these bytes, four at least: UTF-8, unless a byte-order mark says another.

    Raises: NotText, where zeros among them say that it is UTF-16 without a mark, or no text at all.

    >>> encoding_of(b"0 1\\n"), encoding_of("0 1".encode("utf-16"))
    ('utf-8', 'utf-16')
    """
    if found := next((name for mark, name in MARKS if begin.startswith(mark)), None):
        return found
    if 0 in begin[:LONGEST]:
        raise NotText(f"it is no text, or UTF-16 without a byte-order mark: its first bytes are "
                      f"{begin[:LONGEST].hex(' ')}; {REMEDY}")  # fmt: skip
    return "utf-8"


def decoded(content: bytes) -> str:
    """A whole text, its lines ending with a line feed alone; marks where files were joined are taken out as well.

    Raises: NotText, naming the line and the byte that is none of its encoding.

    >>> decoded("\\ufeffx,y\\r\\n1,2".encode())
    'x,y\\n1,2'
    """
    encoding = encoding_of(content[:LONGEST])
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        line = content.count(b"\n", 0, error.start) + 1
        raise NotText(f"line {line} holds the byte {content[error.start]:#04x}, which is no {name}: {error.reason}; "
                      f"{REMEDY}") from error  # fmt: skip
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n")


def read_text(path: Path) -> str:
    """The text in a file, as `decoded`.

    Raises: NotText, as `decoded`; OSError, if the file cannot be read.
    """
    return decoded(path.read_bytes())
