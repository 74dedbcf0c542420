"""One member of a zip: from the directory's entry to the bytes of the file that was zipped.

Members are read by offset: threads share no file position and no lock (`zipfile` has both), and
each inflates on its own. What the zip declares is checked: no member is read or inflated beyond it.

Source: PKWARE's APPNOTE.TXT, 4.3.7 (local file header), 4.4.4 (flags), 4.4.5 (methods).
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib

from pipelines.formats.crc import crc32
from pipelines.images.limits import MAX_FILE_BYTES

#: What no image is deflated to: plain colour apart, a bitmap becomes a tenth or more. Smaller files
#: may, as they fill no memory.
_MOST_TIMES, _SMALL_BYTES = 200, 16 << 20
#: Magic, and the lengths of name and extra field at its end.
_LOCAL_HEADER = struct.Struct("<4s22x2H")
_LOCAL_MAGIC = b"PK\3\4"
_FLAG_UTF8 = 0x800
#: Flags of members that cannot be read; two kinds of encryption.
_UNREADABLE = {0x1: "encrypted", 0x40: "encrypted", 0x20: "compressed as a patch"}
#: Compression methods that are met, of those that are not read.
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}


class UnreadableMember(Exception):
    """The reason why a member's bytes cannot be had."""


def read_member(file: int, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, checked against their declared size and CRC-32.

    Raises:
        UnreadableMember: with the reason.
        OSError: as the system says.
    """
    for flag, what in _UNREADABLE.items():
        if member.flag_bits & flag:
            raise UnreadableMember(f"is {what} in the zip")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UnreadableMember("is a link, which is not followed in a zip")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        how = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise UnreadableMember(f"is compressed by {how}, not stored or deflated")
    size, packed_size = member.file_size, member.compress_size
    if max(size, packed_size) > MAX_FILE_BYTES:
        found = max(size, packed_size)
        raise UnreadableMember(f"declares {found:,} bytes, more than {MAX_FILE_BYTES:,}")
    if size > max(_SMALL_BYTES, _MOST_TIMES * packed_size):
        raise UnreadableMember(f"declares {size:,} bytes in {packed_size:,}, as no image does")
    encoding = "utf-8" if member.flag_bits & _FLAG_UTF8 else "cp437"
    name = member.orig_filename.encode(encoding)
    head = os.pread(file, _LOCAL_HEADER.size + len(name), member.header_offset)
    if len(head) < _LOCAL_HEADER.size + len(name):
        raise UnreadableMember("is cut short in the zip")
    magic, name_size, extra_size = _LOCAL_HEADER.unpack_from(head)
    if magic != _LOCAL_MAGIC or name_size != len(name) or head[_LOCAL_HEADER.size :] != name:
        raise UnreadableMember("is not where the zip's directory says")
    packed = os.pread(file, packed_size, member.header_offset + len(head) + extra_size)
    if len(packed) != packed_size:
        raise UnreadableMember("is cut short in the zip")
    data = packed
    if member.compress_type == zipfile.ZIP_DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(packed, size + 1)
        except zlib.error as error:
            raise UnreadableMember(f"does not inflate ({error})") from error
    if len(data) > size:
        raise UnreadableMember(f"is more than the {size:,} bytes that it declares")
    if len(data) < size:
        raise UnreadableMember(f"is {len(data):,} bytes, not the {size:,} that it declares")
    if crc32(data) != member.CRC:
        raise UnreadableMember("has other bytes than those that were zipped (CRC-32)")
    return data
