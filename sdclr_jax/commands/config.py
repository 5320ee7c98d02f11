"""`sdclr config`: print a resolved config, and where each value comes from."""

import json

from sdclr_jax import recipes
from sdclr_jax.commands import flags
from sdclr_jax.errors import UserError

USAGE = f"""sdclr config NAME[:METHOD] [--config.FIELD=VALUE ...] [--json]

Prints each field of a config with its value and where that comes from. What comes later overrides what comes before:
base (configs/base.py), data set (the config's own file), method and recipe (configs/methods.py, or the config's own
file), command line. A value that the own code of a file sets has the file's name as its source.

  NAME[:METHOD]         such as digits_lt:sdclr, or FILE.py:METHOD for a config file of your own
  --config.FIELD=VALUE  overrides a field
  --json                one object: {{FIELD: {{"value": ..., "source": ...}}}}

{flags.KNOWN}"""


def main(argv: list[str]) -> None:
    flags.show_help(argv, USAGE)
    names, options = ([arg for arg in argv if arg.startswith("-") == option] for option in (False, True))
    if len(names) != 1:
        raise UserError("give one config, as in: sdclr config digits_lt:sdclr")
    config, sources = recipes.load_with_sources(names[0])
    before = recipes.fields(config)
    overrides = [option for option in options if option != "--json"]
    config = flags.overridden(config, overrides)
    recipes.check(config)
    recipes.check_new(config)
    recipes.warn_of_unread(config, flags.fields(overrides))
    now = recipes.fields(config)
    # Another encoder brings fields of its own, and its own defaults of others.
    of_model = {name: value for name, value in now.items() if name.startswith("model.")}
    sources |= {name: "encoder" for name, value in of_model.items() if name not in before or value != before[name]}
    sources |= dict.fromkeys(flags.fields(overrides), "command line")
    fields = {name: {"value": value, "source": sources[name]} for name, value in now.items()}
    if "--json" in options:
        print(json.dumps(fields, indent=1))
        return
    lines = {f"{name} = {field['value']!r}": field["source"] for name, field in fields.items()}
    width = min(max(map(len, lines)), 72)
    for line, source in lines.items():
        print(f"{line:{width}s}  # {source}")
