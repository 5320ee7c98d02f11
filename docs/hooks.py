"""Pages link to files of the repository as `../configs/base.py`, which works on GitHub; the site gets a copy of each.

Python files get the ending .txt, so that a browser shows them.
"""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
LINK = re.compile(r"\]\(\.\./([^)#]+)")


def _on_site(path):
    return f"repository/{path}" + (".txt" if path.endswith((".py", "LICENSE")) else "")


def on_files(files, config):
    pages = [file for file in files if file.is_documentation_page() and not file.generated_by]
    linked = {path for page in pages for path in LINK.findall(page.content_string)}
    for path in sorted(path for path in linked if (ROOT / path).is_file()):
        files.append(File.generated(config, _on_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    return LINK.sub(lambda link: f"]({_on_site(link[1])}", markdown)
