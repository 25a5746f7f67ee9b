"""The pictures of the explorer's guide, beside this file: its pages, photographed in Chromium.

    FUNCPROP_MNIST=FOLDER python docs/images/explorer.py [FOLDER]

Needs playwright, of the extra `dev`, and an installed chromium.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from funcprop.data import load
from funcprop.explorer.lessons import lesson
from funcprop.explorer.worked import nielsen

# name: (page, what is set on it, what is photographed, theme)
DIGITS = "explorer.set({at: 6, example: 0, chosen: {kind: 'node', layer: 1, j: 2}})"
SPIRAL = "explorer.set({at: explorer.data.steps.length - 3, example: 5, phase: 4})"
PICTURES = {
    "explorer": ("digits", DIGITS, None, "light"),
    "explorer-nielsen": ("nielsen", "0", ".panels", "light"),
    "explorer-spiral": ("spiral", SPIRAL, None, "dark"),
}


def main(folder: Path = Path(__file__).parent) -> None:
    pages = {
        "digits": lesson("digits"),
        "spiral": lesson("spiral"),
        "nielsen": nielsen(load("mnist", os.environ["FUNCPROP_MNIST"])),
    }
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (page, change, part, theme) in PICTURES.items():
            tab = chromium.new_page(viewport={"width": 1360, "height": 1180}, color_scheme=theme)
            tab.goto(pages[page].save(Path(place, f"{page}.html")).as_uri())
            tab.evaluate(change)
            tab.mouse.move(0, 0)
            shot = tab.locator(part).first if part else tab
            whole = {"full_page": True} if page == "spiral" else {}
            shot.screenshot(path=folder / f"{name}.png", **whole)
        chromium.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
