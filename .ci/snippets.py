#!/usr/bin/env python3
"""snippets.py FILE...: code in the documentation is code that compiles.

A block of Rust in a Markdown file that follows a line `<!-- from PATH -->` must stand in the file PATH, line for line; its
indentation may differ as a whole. A block of Rust without such a line is an error, unless a line `<!-- a sketch -->` says that it is none."""

import re
import sys
import textwrap
from pathlib import Path

BLOCK = re.compile(r"^```rust\n(.*?)^```$", re.M | re.S)
SOURCE = re.compile(r"<!-- (?:from (\S+)|a sketch) -->\s*\Z")


def stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in textwrap.dedent(text).strip("\n").split("\n"))


def stands_in(code: str, path: Path) -> bool:
    wanted, lines = stripped(code), path.read_text().split("\n")
    count = wanted.count("\n") + 1
    return any(stripped("\n".join(lines[i : i + count])) == wanted for i in range(len(lines)))


def main() -> int:
    blocks, wrong = 0, 0
    for name in sys.argv[1:]:
        text = Path(name).read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            source = SOURCE.search(text[: block.start()])
            blocks += 1
            if source is None:
                problem = "does not say where it is from"
            elif source[1] is not None and not stands_in(block[1], Path(source[1])):
                problem = f"does not stand in {source[1]}"
            else:
                continue
            print(f"{name}:{line}: the block {problem}")
            wrong += 1
    print(f"{blocks} blocks of Rust, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
