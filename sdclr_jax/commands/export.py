"""`sdclr export`: write the encoder of a run for other programs."""

from sdclr_jax.api import export
from sdclr_jax.commands.parser import Parser

DESCRIPTION = """\
Writes the dense encoder of a run into a new folder, with a model card (README.md); nothing in it can be executed.
torchvision, timm: model.safetensors under the names of these libraries. authors: the same for the code of the SDCLR
authors, with the norms of both branches. onnx: model.onnx, checked by onnxruntime. hub-folder: what a model hub shows
and timm loads; it is not uploaded."""


def main(argv: list[str]) -> None:
    parser = Parser(prog="sdclr export", description=DESCRIPTION)
    add = parser.add_argument
    add("dir", metavar="DIR", help="the run's folder")
    add("--to", required=True, choices=export.KINDS, help="for which program")
    add("--out", metavar="FOLDER", help="a new or empty folder; default DIR/export/TO")
    add("--step", type=int, metavar="N", help="the step of the checkpoint; default the newest")
    add(
        "--classes",
        type=int,
        default=1000,
        metavar="N",
        help="outputs of the classifier of zeros in files for torchvision and timm; 0 writes none; default %(default)s",
    )
    add("--data_license", default="", metavar="TEXT", help="licence of the images, for the card; default unknown")
    options = parser.parse_args(argv)
    settings = {"step": options.step, "classes": options.classes, "data_license": options.data_license}
    directory, usage = export.written(options.dir, options.to, options.out, **settings)
    print(f"Wrote {directory}: {', '.join(sorted(path.name for path in directory.iterdir()))}. {usage.fits()}")
