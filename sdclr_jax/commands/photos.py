"""`sdclr photos`: what is wrong and what is rare in a folder of images, in one go."""

import webbrowser

from sdclr_jax import recipes
from sdclr_jax.api import photos
from sdclr_jax.commands import flags
from sdclr_jax.commands.parser import DATA_DIR, Parser
from sdclr_jax.errors import printable, renamed

DESCRIPTION = """\
Looks at a folder of images, trains on it for some minutes without labels, and writes to DIR: a page (index.html), and
as CSV and Parquet near duplicates, images that do not belong, labels that look wrong, rare images, images that are not
learned yet, and a diverse subset; the features, too. Ctrl-C saves; the same command resumes. After the folder has
changed, it looks at the images again without training again. --config.FIELD=VALUE overrides what is chosen, as in sdclr
pretrain."""

FLAGS = {name: f"--{name}" for name in ("out", "minutes", "start", "manifest", "subset", "shown", "method")}


def main(argv: list[str]) -> None:
    parser = Parser(prog="sdclr photos", description=DESCRIPTION)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="the images: flat, one directory per class, splits, or with a manifest")
    add("--out", metavar="DIR", help="where everything is written; default runs/NAME_lists, of the folder's name")
    start = "weights to start from (config.model.start); default random weights"
    add("--start", default="", metavar="FILE", help=start)
    method = f"the training method, one of {', '.join(recipes.METHODS)}; default %(default)s"
    add("--method", default="sdclr", metavar="NAME", help=method)
    minutes = "how long training may take; looking at the images takes more, before and after; default %(default)g"
    add("--minutes", type=float, default=10.0, metavar="M", help=minutes)
    subset = "images in the diverse subset; default %(default)s"
    add("--subset", type=int, default=100, metavar="N", help=subset)
    shown = "images of each list on the page, while the tables have all; default %(default)s"
    add("--shown", type=int, default=60, metavar="N", help=shown)
    add("--manifest", default="", metavar="FILE", help="a CSV file about the images, as sdclr prepare takes it")
    add("--data_dir", metavar="DIR", help=DATA_DIR)
    add("--open", action="store_true", help="open the page in a browser")
    add("--noprogress", action="store_true", help="no progress bars")
    options, given = parser.parse_beside_config(argv)
    config = flags.overridden(recipes.load(f"folder:{options.method}"), given)
    fields = recipes.fields(config)
    recipes.warn_of_unread(config, flags.fields(given))
    with renamed(FLAGS | {"name": "FOLDER", "gray_range": "data.gray_range"}):
        found = photos.photos(
            options.folder,
            options.out,
            method=options.method,
            minutes=options.minutes,
            start=options.start,
            manifest=options.manifest,
            subset=options.subset,
            shown=options.shown,
            overrides={name: fields[name] for name in flags.fields(given)},
            data_dir=options.data_dir,
            progress=not options.noprogress,
            say=lambda line: print(printable(line), flush=True),
        )
    counts = ", ".join(f"{name} {table.num_rows}" for name, table in found.tables.items())
    print(f"Images listed: {counts}")
    print(printable(f"Wrote {found.page.parent}: open {found.page}"))
    if options.open:
        webbrowser.open(found.page.as_uri())
