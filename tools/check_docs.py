"""Check that what the documents name is real: relative links and ``make`` commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {"build", "dist", "out", "node_modules"}
_FENCE = re.compile(r"^( {0,3})(```+|~~~+).*?$(.*?)^ {0,3}\2", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_MAKE = re.compile(r"^\s*(?:\$ )?(?:sudo )?make((?:[ \t]+[\w=./:-]+)+)", re.MULTILINE)
_TARGET = re.compile(r"^([\w-]+)\s*:(?!=)", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    """Return the Markdown files of the repository, hidden and built folders left out."""
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(part.startswith(".") or part in SKIPPED for part in path.relative_to(root).parts)
    )


def anchors(text: str) -> set[str]:
    """Return the anchors that a renderer gives to a document's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        number, name = 0, words
        while name in found:
            number += 1
            name = f"{words}-{number}"
        found.add(name)
    return found


def broken_links(document: Path, root: Path) -> list[str]:
    """Describe each relative link of a document that leads nowhere."""
    text = document.read_text(encoding="utf-8")
    prose = _CODE.sub("", _FENCE.sub("", text))
    problems = []
    for link in [*_LINK.findall(prose), *_REFERENCE.findall(prose)]:
        if re.match(r"[a-z][a-z0-9+.-]*:", link, re.IGNORECASE):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = document if not path else (document.parent / path).resolve()
        if not target.exists() or not target.is_relative_to(root):
            problems.append(f"link to {link}: no such file in the repository")
        elif (
            anchor
            and target.suffix == ".md"
            and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            problems.append(f"link to {link}: no such heading")
    return problems


def unknown_targets(text: str, makefile: str) -> list[str]:
    """Describe each ``make`` command in a fenced block whose target does not exist."""
    known = set(_TARGET.findall(makefile))
    named = [
        word
        for block in _FENCE.finditer(text)
        for command in _MAKE.findall(block.group(3))
        for word in command.split()
        if "=" not in word and not word.startswith("-")
    ]
    return [f"`make {name}`: no such target" for name in named if name not in known]


def main() -> int:
    """Print each problem as ``file: problem``; fail if there is one."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    problems = 0
    for document in documents(ROOT):
        text = document.read_text(encoding="utf-8")
        for problem in [*broken_links(document, ROOT), *unknown_targets(text, makefile)]:
            print(f"{document.relative_to(ROOT)}: {problem}")
            problems += 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
