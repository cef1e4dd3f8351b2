#!/usr/bin/env python3
"""Make examples/data/digits.bin from the digits data set that the scikit-learn package carries.

    python3 tools/get_digits.py            writes the file
    python3 tools/get_digits.py --check    compares it with what would be written

Needs the scikit-learn package; nothing is fetched. A record is 65 bytes: the label (0 to 9), then
8 x 8 pixels (0 to 16), row by row from the top. Records stand in the package's order.
"""
import argparse
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "examples" / "data" / "digits.bin"


def digits():
    """The file's bytes."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("get_digits.py: needs the Python package scikit-learn")
    data = load_digits()
    records = bytearray()
    for pixels, label in zip(data.data, data.target):
        record = [int(label)] + [int(p) for p in pixels]
        if record[1:] != list(pixels) or len(record) != 65 or max(record[1:]) > 16 or label > 9:
            sys.exit("get_digits.py: the package's data are not 8x8 images of 0 to 16 any more")
        records += bytes(record)
    return bytes(records)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    want = digits()
    if parser.parse_args().check:
        if not FILE.exists() or FILE.read_bytes() != want:
            sys.exit(f"get_digits.py: {FILE.name} is not what this script makes")
        print(f"{FILE.name}: {len(want) // 65} records, as the package has them")
        return
    FILE.write_bytes(want)
    print(f"{FILE.name}: {len(want) // 65} records, {len(want)} bytes")


if __name__ == "__main__":
    main()
