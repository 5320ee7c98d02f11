"""`sdclr import`: make a run of weights that another program trained."""

from sdclr_jax import files
from sdclr_jax.api import import_weights
from sdclr_jax.commands import flags
from sdclr_jax.commands.parser import Parser

DESCRIPTION = """\
Makes the folder of a run of the weights in FILE, which sdclr evaluate, exemplars and export take as any other. The file
decides encoder, stem, width, patches and the size of the images; the heads are new. Prints what was taken and
what was not. Fields of the config: --config.FIELD=VALUE, such as --config.views.mean="(0.5, 0.5, 0.5)"."""


def main(argv: list[str]) -> None:
    parser = Parser(prog="sdclr import", description=DESCRIPTION)
    add = parser.add_argument
    add("file", metavar="FILE", help=".safetensors, .npz, or one of PyTorch's: .pt, .pth, .tar, .ckpt, .bin")
    add("--out", required=True, metavar="DIR", help="the run's folder, which is made")
    add("--model", default="", metavar="NAME", help="refuse a file of another encoder, such as resnet50")
    add(
        "--config",
        default="folder:simclr",
        metavar="NAME:METHOD",
        help="a config with the data set that the run will be evaluated on; default %(default)s, where sdclr evaluate "
        "is given the folder of images",
    )
    options, overrides = parser.parse_beside_config(argv)
    config = import_weights.config_of(options.file, options.config, options.model)
    config = flags.overridden(config, overrides)
    directory = files.expanded(options.out)
    import_weights.import_run(config, directory)
    print(f"Wrote {directory}: sdclr evaluate and exemplars take it as any run")
