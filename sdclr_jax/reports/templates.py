"""The pages' templates: everything put into them is escaped, and a name that is missing is an error."""

from pathlib import Path

import jinja2

# What a report begins with: it loads nothing and runs nothing, where other pages have pictures.
_RULES = b"default-src 'none'; style-src 'unsafe-inline'; base-uri"


def is_report(content: bytes) -> bool:
    """Whether a file is the page of a report that this program has written."""
    return _RULES in content[:1000]


def environment() -> jinja2.Environment:
    """Templates of this folder."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
