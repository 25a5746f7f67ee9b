"""Docstrings as Markdown, for the reference.

A docstring of this house is a first sentence or formula, then paragraphs between empty lines:

    prose, with `names` in backquotes        a link, where the reference has that name
    term      what is said of it,            a table of two columns: two spaces or more after the
              on any number of lines         term, and what goes on is indented to the same column
    a line
      term    ...                            the same under a line of its own, which heads it;
                                             prose may follow in the next line
    - an item, or 1. an item                 a list
    >>> code, or a paragraph that is         code
        indented as a whole
    anything else with aligned columns       kept as it stands

In the rows `forward`, `keeps` and `backward` four spaces part two formulas, which get a line each.
Fields of a class with a docstring under them, or a comment behind them (`w: Array  # [in, out]`),
make a table, too.
"""

import re
import textwrap
from pathlib import Path

import griffe

ROW = re.compile(r"(?P<term>\S+(?: \S+)*) {2,}(?P<text>\S.*)")
WIDE = re.compile(r"\S {2,}\S")
STARTS_A_FORMULA = re.compile(r"\S+(?: \S+)? \+?= ")
FIELD = re.compile(r" {4}(?P<name>\w+): [^#]*?(?: {2}# (?P<comment>.*))?")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
REFERENCE = Path(__file__).parent.parent / "reference"


def names():
    """What a docstring calls an entry of the reference -> its path.

    Dense, fp.Dense, fp.collectors.update; a plain word such as `update` alone may be an argument.
    """
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))
    found = {}
    for path in re.findall(r"^::: (\S+)", text, re.MULTILINE):
        name = path.rpartition(".")[2]
        found[path] = found["fp" + path.removeprefix("funcprop")] = path
        if path.count(".") == 1 or "_" in name or name != name.lower():
            found.setdefault(name, path)
    return found


class Docstrings(griffe.Extension):
    def __init__(self):
        self.names = names()

    def on_object(self, *, obj, **_):
        if obj.is_attribute and obj.docstring is None:
            obj.docstring = of_the_class(obj)
        elif obj.docstring is not None and not is_field(obj):
            fields = explained(obj) if obj.is_class else []
            text = markdown(obj.docstring.value, self.names, obj.name)
            if fields:
                text += "\n\n" + table(fields, self.names, obj.name)
            obj.docstring.value = text


def of_the_class(attribute):
    """`squared_norms = SquaredNorms()` says what its class says."""
    made = re.match(r"(\w+)\(", str(attribute.value or ""))
    known = attribute.parent.members.get(made[1]) if made and attribute.parent else None
    if known is None or known.is_alias or known.docstring is None:
        return None
    return griffe.Docstring(known.docstring.value, parent=attribute)


def is_field(obj):
    return obj.is_attribute and obj.parent.is_class and "property" not in obj.labels


def explained(of_class):
    """[(field, what is said of it)]: under it in a docstring, or in a comment behind it.

    Of a NamedTuple all fields, since it has no signature to show. None that the class itself
    speaks of in a table.
    """
    told = set(re.findall(r"^ *(\w+) {2,}\S", of_class.docstring.value, re.MULTILINE))
    every = {**of_class.inherited_members, **of_class.members}
    fields = {name: field for name, field in every.items() if is_field(field)}
    said = {name: one.docstring.value.splitlines() for name, one in fields.items() if one.docstring}
    for line in of_class.source.splitlines() if fields else ():
        if (row := FIELD.fullmatch(line)) and row["name"] in fields and row["comment"]:
            said.setdefault(row["name"], [row["comment"]])
    every_one = not told & set(fields) and any(
        str(base).endswith("NamedTuple") for base in of_class.bases
    )
    return [
        (name, said.get(name, [""]))
        for name in fields
        if name not in told and (every_one or name in said)
    ]


def markdown(docstring, names, own):
    text = docstring.strip("\n")
    first, _, rest = text.partition("\n")
    text = first.strip() + "\n" + textwrap.dedent(rest)
    parts = re.split(r"\n[ \t]*\n", text.strip())
    return "\n\n".join(paragraph(part.strip("\n"), names, own) for part in parts)


def paragraph(text, names, own):
    lines = textwrap.dedent(text).splitlines()
    indented = text.startswith("  ") and not rows(lines)[0]
    if lines[0].startswith(">>>"):
        return "\n".join(("```pycon", *lines, "```"))
    if re.match(r"(- |\d+\. )", lines[0]):
        return "\n".join(prose(line, names, own) for line in lines)
    for start in range(0 if not indented else len(lines), len(lines)):
        tail = textwrap.dedent("\n".join(lines[start:])).splitlines()
        found, rest = rows(tail)
        if found and (start == 0 or len(tail) > 1):
            around = [table(found, names, own)]
            if start:
                around.insert(0, paragraph("\n".join(lines[:start]), names, own))
            if rest:
                around.append(paragraph("\n".join(rest), names, own))
            return "\n\n".join(around)
    if indented or any(line.startswith(" ") or WIDE.search(line) for line in lines):
        return "\n".join(("```text", *lines, "```"))
    return prose("\n".join(lines), names, own)


def rows(lines):
    """[(term, lines of text)] of the table that lines begin with, and the lines after it."""
    first = ROW.fullmatch(lines[0])
    if first is None:
        return [], lines
    column, found = first.start("text"), []
    for i, line in enumerate(lines):
        row = ROW.fullmatch(line)
        if row and row.start("text") == column:
            found.append((row["term"], [row["text"]]))
        elif line[:column].strip() == "":
            found[-1][1].append(line[column:])
        else:
            return found, lines[i:]
    return found, []


def table(found, names, own):
    cells = [
        f"<tr><th>{inline(term, names, own)}</th><td>{said(lines, names, own)}</td></tr>"
        for term, lines in found
    ]
    return '<table class="terms">' + "".join(cells) + "</table>"


def said(lines, names, own):
    """What stands beside a term: formulas get a line each, prose flows."""
    pieces = []
    for line in lines:
        several = re.split(r" {3,}", line.strip())
        if pieces and not STARTS_A_FORMULA.match(line) and not line.startswith(" "):
            pieces[-1] += " " + several.pop(0)
        pieces += several
    return "<br>".join(inline(piece, names, own) for piece in pieces)


def prose(text, names, own):
    """The text as Markdown that means no more than it says."""
    return quoted(text, names, own, literally, md_link)


def inline(text, names, own):
    """The text as HTML, in which Markdown finds nothing either."""
    return quoted(text, names, own, literally, html_link)


def quoted(text, names, own, plain, link):
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        link(part, names.get(part) if part.rpartition(".")[2] != own else None)
        if i % 2
        else plain(part)
        for i, part in enumerate(parts)
    )


def literally(text):
    text = re.sub(r"[*_\[\]<>#$|~^\\&]", lambda one: f"&#{ord(one[0])};", text)
    return ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text)


def md_link(code, path):
    return f"[`{code}`][{path}]" if path else f"`{code}`"


def html_link(code, path):
    code = f"<code>{literally(code)}</code>"
    return f'<autoref identifier="{path}">{code}</autoref>' if path else code
