#!/usr/bin/env python3
"""Fetch the sequence data of the examples out of two Python packages, with pip.

    python3 tools/get_sequences.py FOLDER      writes FOLDER/movie.txt, for examples/text.c
    python3 tools/get_sequences.py --vowels    writes examples/data/vowels.bin
    python3 tools/get_sequences.py --check     compares that file with what would be written

Needs pip and the package index that pip is set up for; the packages are downloaded, checked by
their SHA-256, and not installed.

movie.txt: 10,605 sentences of film reviews rated by people, out of the source package
vaderSentiment (MIT, see FOLDER/LICENSE.txt). A line is a number, the mean rating (-4 to 4) and the
sentence in UTF-8, separated by tabs; as the package has it.

vowels.bin: JapaneseVowels out of the package aeon; examples/data/README.md says what it is. A
record is the label (0 to 8), the number of steps (7 to 29), and for each step 12 numbers in 1/10000
as int16, low byte first. The first 270 records are for training, the other 370 for testing.
"""
import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "examples" / "data" / "vowels.bin"
FEATURES, TRAIN, TEST = 12, 270, 370
MOVIE = ("vaderSentiment==3.3.2 --no-binary vaderSentiment",
         "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
VOWELS = ("aeon==1.6.0", "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409")


def die(text):
    sys.exit(f"get_sequences.py: {text}")


def package(wanted):
    """The bytes of the package file that pip downloads."""
    requirement, digest = wanted
    name, *options = requirement.split()
    with tempfile.TemporaryDirectory() as folder:
        # pip takes hashes from a requirements file only.
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"{name} --hash=sha256:{digest}\n", encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--ignore-requires-python", "--disable-pip-version-check", *options,
                   "--require-hashes", "--requirement", str(pinned), "--dest", f"{folder}/got"]
        if subprocess.run(command, check=False).returncode:
            die(f"pip could not download {name}")
        return next(Path(folder, "got").iterdir()).read_bytes()


def member(archive, ending):
    """The bytes of the one file in an open tar archive whose path ends so."""
    found = [m for m in archive.getmembers() if m.isfile() and m.name.endswith(ending)]
    if len(found) != 1:
        die(f"{len(found)} files called {ending} where one was expected")
    return archive.extractfile(found[0]).read()


def write_movie(folder):
    with tarfile.open(fileobj=io.BytesIO(package(MOVIE))) as outer:
        licence = member(outer, "/LICENSE.txt")
        inner = member(outer, "/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        text = member(archive, "/movieReviewSnippets_GroundTruth.txt")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE.txt").write_bytes(licence)
    (folder / "movie.txt").write_bytes(text)
    print(f"{folder / 'movie.txt'}: {len(text.splitlines())} sentences, {len(text)} bytes")


def records(text):
    """The records of one file of the package: features by ':', steps by ',', the label last."""
    out = []
    for line in text.splitlines():
        if not line or line[0] in "#@":
            continue
        *columns, label = line.split(":")
        values = [[round(float(v) * 10000) for v in column.split(",")] for column in columns]
        steps = len(values[0])
        if len(values) != FEATURES or any(len(v) != steps for v in values) or not 7 <= steps <= 29:
            die("the package's sequences are not 7 to 29 steps of 12 numbers any more")
        record = bytearray([int(label) - 1, steps])
        for step in zip(*values):
            for v in step:
                record += v.to_bytes(2, "little", signed=True)
        out.append(bytes(record))
    return out


def vowels():
    """The file's bytes."""
    with zipfile.ZipFile(io.BytesIO(package(VOWELS))) as wheel:
        folder = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_"
        train, test = (records(wheel.read(f"{folder}{part}.ts").decode("ascii"))
                       for part in ("TRAIN", "TEST"))
    if (len(train), len(test)) != (TRAIN, TEST):
        die(f"the package has {len(train)} and {len(test)} sequences, not {TRAIN} and {TEST}")
    return b"".join(train + test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="write movie.txt here")
    what.add_argument("--vowels", action="store_true", help=f"write {FILE.name}")
    what.add_argument("--check", action="store_true", help=f"compare {FILE.name}, write nothing")
    args = parser.parse_args()
    if args.folder:
        write_movie(args.folder)
        return
    want = vowels()
    if args.check:
        if not FILE.exists() or FILE.read_bytes() != want:
            die(f"{FILE.name} is not what this script makes")
        print(f"{FILE.name}: {TRAIN + TEST} records, as the package has them")
        return
    FILE.write_bytes(want)
    print(f"{FILE.name}: {TRAIN + TEST} records, {len(want)} bytes")


if __name__ == "__main__":
    main()
