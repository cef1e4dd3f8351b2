"""HDF5 as Keras writes it, read without libhdf5, which can hang on damaged files: superblock 0 or
1, groups as symbol tables, data sets in one piece, attributes of text. Links are never followed.

    f = File(content)
    f.root.get("layers/dense/vars/0").values()

A File over a bytearray may be changed in place: Dataset.put().
"""

import math
import struct

import numpy as np

from .model import Error

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 0xFFFFFFFFFFFFFFFF
MESSAGES_MAX = 65535
MEMBERS_MAX = 1 << 20
FLOATS = {  # size: position and bits of exponent and mantissa, bias, all as IEEE 754 has them
    2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}
FIXED, FLOAT, STRING, OPAQUE, LENGTHS = 0, 1, 3, 5, 9  # classes of types
DATASPACE, TYPE, LINK, EXTERNAL, LAYOUT, ATTRIBUTE, CONTINUATION, TABLE, MANY_ATTRIBUTES = \
    1, 3, 6, 7, 8, 12, 16, 17, 21  # messages
LINKS = 2


class File:
    def __init__(self, data):
        self.data = data
        if bytes(data[:8]) != SIGNATURE:
            raise Error("it is no HDF5")
        version, offsets, lengths = (self.number("<B", at) for at in (8, 13, 14))
        if version > 1 or (offsets, lengths) != (8, 8):
            raise Error("it is HDF5 of a form that Keras does not write by default")
        at = 24 + 4 * version
        base, end = self.number("<Q", at), self.number("<Q", at + 16)
        if base:
            raise Error("it is HDF5 behind something else")
        if end > len(data):
            raise Error("it is cut off")
        self.root = self.object(self.number("<Q", at + 40), "")
        if not isinstance(self.root, Group):
            raise Error("the HDF5 has no groups")

    def bytes(self, at, size):
        if not 0 <= at <= len(self.data) - size:
            raise Error("an address in the HDF5 points out of the file")
        return bytes(self.data[at:at + size])

    def number(self, kind, at):
        return struct.unpack(kind, self.bytes(at, struct.calcsize(kind)))[0]

    def expect(self, at, signature):
        if self.bytes(at, 4) != signature:
            raise Error(f"the HDF5 has no {signature.decode()} where one should be")

    def object(self, at, path):
        """The group or data set whose header lies there."""
        messages = self.messages(at)
        kinds = {kind for kind, _, _ in messages}
        if TABLE in kinds:
            return Group(self, messages, path)
        if LINKS in kinds or LINK in kinds:
            raise Error(f"{path or 'the root'} in the HDF5 is a group of a newer form, or holds "
                        "links to elsewhere, which are not followed")
        return Dataset(self, messages, path)

    def messages(self, at):
        """(kind, where, size) of all messages of an object's header, in all its parts."""
        if self.number("<B", at) != 1:
            raise Error("the HDF5 has an object header of a newer form")
        parts, result, seen = [(at + 16, self.number("<I", at + 8))], [], {at + 16}
        while parts:
            at, size = parts.pop(0)
            end = at + size
            while at + 8 <= end:
                kind, length, flags = (self.number("<H", at), self.number("<H", at + 2),
                                       self.number("<B", at + 4))
                if at + 8 + length > end or len(result) > MESSAGES_MAX:
                    raise Error("the HDF5 has a damaged object header")
                if flags & 2 and kind in (DATASPACE, TYPE, ATTRIBUTE, LAYOUT):
                    raise Error("the HDF5 has shared headers, which Keras does not write")
                if kind == CONTINUATION and length >= 16:
                    more = self.number("<Q", at + 8), self.number("<Q", at + 16)
                    if more[0] in seen:
                        raise Error("the HDF5 has an object header that goes in a circle")
                    seen.add(more[0])
                    parts.append(more)
                else:
                    result.append((kind, at + 8, length))
                at += 8 + length
        return result

    def text_at(self, at, size):
        """A string of varying length: (length, collection, number) in the global heap."""
        length, heap, number = struct.unpack("<IQI", self.bytes(at, 16))
        if not length:
            return ""
        self.expect(heap, b"GCOL")
        end, at = heap + self.number("<Q", heap + 8), heap + 16
        while at + 16 <= end:
            index, bytes_ = self.number("<H", at), self.number("<Q", at + 8)
            if index == number and index:
                return text_of(self.bytes(at + 16, min(length, bytes_)))
            if not index:
                break
            at += 16 + (bytes_ + 7) // 8 * 8
        raise Error("the HDF5 lacks a text")


def text_of(content):
    return content.split(b"\0")[0].decode("utf-8")


class Type:
    def __init__(self, f, at, limit):
        first, bits, self.size = (f.number("<B", at), f.number("<B", at + 1),
                                  f.number("<I", at + 4))
        self.kind = first & 15
        self.dtype = None
        order = "<>"[bits & 1]
        if self.kind == FIXED and self.size in (1, 2, 4, 8):
            offset, precision = f.number("<H", at + 8), f.number("<H", at + 10)
            if (offset, precision) == (0, 8 * self.size):
                self.dtype = np.dtype(order + "ui"[bits >> 3 & 1] + str(self.size))
        elif self.kind == FLOAT and self.size in FLOATS and not bits & 64:
            if struct.unpack("<HHBBBBI", f.bytes(at + 8, 12)) == FLOATS[self.size]:
                self.dtype = np.dtype(f"{order}f{self.size}")
        elif self.kind == OPAQUE and self.size == 2:
            self.dtype = np.dtype("V2")
        self.texts = self.kind == STRING or (self.kind == LENGTHS and bits & 15 == 1)
        if self.kind == LENGTHS and self.size != 16:
            raise Error("the HDF5 has a damaged type")


def shape_at(f, at):
    """Dimensions; None: no data at all."""
    version, rank, flags = (f.number("<B", at + i) for i in (0, 1, 2))
    if version not in (1, 2) or rank > 32:
        raise Error("the HDF5 has a damaged shape")
    if version == 2 and f.number("<B", at + 3) == 2:
        return None
    start = at + (8 if version == 1 else 4)
    return tuple(f.number("<Q", start + 8 * i) for i in range(rank))


def attributes_of(f, messages):
    """Attributes of text by name: a text, or a list of them; others are left out."""
    result = {}
    for kind, at, size in messages:
        if kind == MANY_ATTRIBUTES and f.number("<Q", at + 2 + 2 * (f.number("<B", at + 1) & 1)) \
                != NOWHERE:
            raise Error("the HDF5 keeps attributes in a newer form")
        if kind != ATTRIBUTE:
            continue
        version = f.number("<B", at)
        sizes = [f.number("<H", at + i) for i in (2, 4, 6)]
        start = at + 8 + (version == 3)
        ends = [(n + 7) // 8 * 8 if version == 1 else n for n in sizes]
        if version not in (1, 2, 3) or start + sum(ends) > at + size:
            raise Error("the HDF5 has a damaged attribute")
        name = text_of(f.bytes(start, sizes[0]))
        type_ = Type(f, start + ends[0], sizes[1])
        shape = shape_at(f, start + ends[0] + ends[1])
        data = start + sum(ends)
        if not type_.texts or shape is None:
            continue
        count = math.prod(shape)
        if data + count * type_.size > at + size:
            raise Error("the HDF5 has a damaged attribute")
        read = f.text_at if type_.kind == LENGTHS else lambda at, n: text_of(f.bytes(at, n))
        values = [read(data + i * type_.size, type_.size) for i in range(count)]
        result[name] = values if shape else values[0]
    return result


class Group:
    def __init__(self, f, messages, path):
        self.f, self.path = f, path
        self.attributes = attributes_of(f, messages)
        at = next(at for kind, at, _ in messages if kind == TABLE)
        self.table, self.heap = f.number("<Q", at), f.number("<Q", at + 8)
        self.kept = None

    def members(self):
        """Where the headers of its members lie, by name; None: a link."""
        if self.kept is None:
            f = self.f
            f.expect(self.heap, b"HEAP")
            names = f.number("<Q", self.heap + 24)
            self.kept, nodes, seen = {}, [self.table], {self.table}
            while nodes:
                at = nodes.pop()
                if f.bytes(at, 4) == b"SNOD":
                    self.entries(at, names)
                    continue
                f.expect(at, b"TREE")
                for i in range(f.number("<H", at + 6)):
                    child = f.number("<Q", at + 32 + 16 * i)
                    if child in seen or len(seen) > MEMBERS_MAX:
                        raise Error("the HDF5 has a group that goes in a circle")
                    seen.add(child)
                    nodes.append(child)
        return self.kept

    def entries(self, at, names):
        f = self.f
        for i in range(f.number("<H", at + 6)):
            entry = at + 8 + 40 * i
            start = names + f.number("<Q", entry)
            end = f.data.find(b"\0", start, start + 4096)
            if start > len(f.data) or end < 0:
                raise Error("the HDF5 has a damaged name")
            name = f.bytes(start, end - start).decode("utf-8")
            link = f.number("<I", entry + 16) == 2
            self.kept[name] = None if link else f.number("<Q", entry + 8)

    def has(self, path):
        """Is there something at this path of groups?"""
        first, _, rest = path.partition("/")
        if first not in self.members():
            return False
        member = self.member(first) if rest else None
        return not rest or (isinstance(member, Group) and member.has(rest))

    def get(self, path, kind=None):
        """The object at a path of groups, which must be a Group or a Dataset."""
        found = self
        for name in path.split("/"):
            if not isinstance(found, Group):
                raise Error(f"{found.path} in the weights is no group")
            found = found.member(name)
        if not isinstance(found, kind or object):
            raise Error(f"{found.path} in the weights is not what it should be")
        return found

    def member(self, name):
        path = f"{self.path}/{name}" if self.path else name
        if name not in self.members():
            raise Error(f"the weights lack {path}")
        if self.members()[name] is None:
            raise Error(f"{path} is a link to elsewhere, which is not followed")
        return self.f.object(self.members()[name], path)


class Dataset:
    def __init__(self, f, messages, path):
        self.f, self.path = f, path
        where = {kind: at for kind, at, _ in messages}
        if EXTERNAL in where:
            raise Error(f"{path} lies in another file, which is not read")
        if not {DATASPACE, TYPE, LAYOUT} <= set(where):
            raise Error(f"{path} in the HDF5 is neither a group nor an array")
        self.attributes = attributes_of(f, messages)
        self.shape = shape_at(f, where[DATASPACE]) or ()
        self.dtype = Type(f, where[TYPE], 0).dtype
        self.at = self.layout(where[LAYOUT])

    def layout(self, at):
        """Where the numbers are; they lie in one piece."""
        f = self.f
        version, kind = f.number("<B", at), f.number("<B", at + 1)
        if version not in (3, 4) or kind not in (0, 1):
            raise Error(f"{self.path} is stored in chunks or in another file, which Keras does not "
                        "do")
        start, size = ((at + 4, f.number("<H", at + 2)) if kind == 0 else
                       (f.number("<Q", at + 2), f.number("<Q", at + 10)))
        if self.dtype is None:
            raise Error(f"{self.path} holds no numbers")
        if size < self.dtype.itemsize * math.prod(self.shape) or \
                (start == NOWHERE and math.prod(self.shape)):
            raise Error(f"{self.path} has fewer bytes than its shape needs")
        return start

    def values(self):
        """The numbers, as stored."""
        count = math.prod(self.shape)
        content = self.f.bytes(self.at, count * self.dtype.itemsize) if count else b""
        return np.frombuffer(content, self.dtype).reshape(self.shape)

    def put(self, values):
        """Other numbers, into the file's bytes."""
        content = np.ascontiguousarray(values, self.dtype).tobytes()
        self.f.bytes(self.at, len(content))
        self.f.data[self.at:self.at + len(content)] = content
