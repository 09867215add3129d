"""The check of the documents finds what is broken and lets the rest pass."""

from __future__ import annotations

from pathlib import Path

from tools.check_docs import anchors, broken_links, documents, unknown_targets

MAKEFILE = "PY := x\nsetup: a\ntest check: setup\ntest: b  ## tests\n"


def test_links_to_files_and_headings_that_exist_pass(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# The way of a sample\n")
    document = tmp_path / "a.md"
    document.write_text(
        '# Top\n[x](other.md) [y](other.md#the-way-of-a-sample "title") [z](#top)\n'
        "[w](https://example.org/none.md)\n[r]: other.md\n"
        "`[code](nothing.md)`\n```\n[fenced](nothing.md)\n```\n"
    )
    assert broken_links(document, tmp_path) == []


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# Top\n[x](gone.md) [y](#nothing) [z](../outside.md)\n")
    assert broken_links(document, tmp_path) == [
        "link to gone.md: no such file in the repository",
        "link to #nothing: no such heading",
        "link to ../outside.md: no such file in the repository",
    ]


def test_make_commands_need_a_target_only_inside_fences() -> None:
    text = "make no sense\n```sh\nmake test\nHATCHWAY=1 x\n$ make setup PYTHON=python3.12\n```"
    assert unknown_targets(text, MAKEFILE) == []
    assert unknown_targets("```\nmake test\nmake lunch\n```", MAKEFILE) == [
        "`make lunch`: no such target"
    ]


def test_repeated_headings_get_numbered_anchors() -> None:
    assert anchors("# A b\n## A b\n### `C`, d!\n") == {"a-b", "a-b-1", "c-d"}


def test_hidden_folders_hold_no_documents(tmp_path: Path) -> None:
    for name in (".venv/x.md", "build/y.md", "docs/z.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    assert documents(tmp_path) == [tmp_path / "docs/z.md"]
