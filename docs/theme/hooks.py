"""What mkdocs does besides: the first page, the headings of the reference, formulas as MathML."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

DOCS = Path(__file__).parent.parent


def on_config(config):
    config.docs_dir = str(DOCS)
    return config


def on_files(files, config):
    """The first page is the README, its links seen from here, without those that lead elsewhere."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"(?<!!)\[([^]]*)\]\((?!docs/|http|#)[^)]*\)", r"\1", readme)
    files.append(File.generated(config, "index.md", content=readme.replace("](docs/", "](")))
    return files


DIRECTIVE = re.compile(r"^::: (?P<path>funcprop\.\S+)\n(?P<options>    options:\n)?", re.MULTILINE)


def on_page_markdown(markdown, **_):
    """An entry of the reference is headed by what one writes: fp.Dense, fp.layers.Affine."""

    def headed(entry):
        path, name = entry["path"], entry["path"].rpartition(".")[2]
        written = path.replace("funcprop.", "fp.", 1)
        if path.startswith("funcprop.cli.") and name.istitle():
            written = f"funcprop {name.lower()}"  # a command
        return (
            f"::: {path}\n    options:\n"
            f'      heading: "{written}"\n'
            f'      toc_label: "{written.rpartition(".")[2]}"\n'
        )

    return DIRECTIVE.sub(headed, markdown + "\n")


# What the converter, or browsers in what it makes of it, know by another name.
SPELLED = {"{aligned}": "{align*}", r"{\mathsf T}": r"{\text{T}}", r"\operatorname": r"\mathrm"}
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content, **_):
    def drawn(formula):
        display = "block" if formula["tag"] == "div" else "inline"
        latex = html.unescape(formula["latex"]).strip()
        for ours, theirs in SPELLED.items():
            latex = latex.replace(ours, theirs)
        mathml = convert(latex, display=display)
        return f'<div class="formula">{mathml}</div>' if display == "block" else mathml

    return FORMULA.sub(drawn, content)
