"""The `passctl` entry point: subcommands, error messages and exit codes.

Exit codes: 0 for same or ok, 1 for differs or fails, 2 for an error.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

from graphpress.tools.passctl import console

# Commands are imported when named, or for the list of all; torch only when a command runs.
COMMANDS = {
    "bench": "graphpress.tools.passctl.bench:bench",
    "bisect": "graphpress.tools.passctl.bisect:bisect",
    "compress": "graphpress.tools.passctl.compress:compress",
    "diff": "graphpress.tools.passctl.diff:diff",
    "dump": "graphpress.tools.passctl.dump:dump",
    "explain": "graphpress.tools.passctl.explain:explain",
    "list": "graphpress.tools.passctl.listing:list_passes",
    "reduce": "graphpress.tools.passctl.reduce:reduce",
    "repro": "graphpress.tools.passctl.repro:repro",
    "run": "graphpress.tools.passctl.run:run",
    "verify": "graphpress.tools.passctl.verify:verify",
    "verify-artifact": "graphpress.tools.passctl.verify_artifact:verify_artifact",
}

_INTERRUPTED = 130


class Passctl(click.Group):
    """A command group with lazily imported commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command called `name`."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Resolve as click does, with similar names in the error for an unknown name."""
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS and not ctx.resilient_parsing:
            near = get_close_matches(name, COMMANDS, n=2)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(COMMANDS)}"
            ctx.fail(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exceptions become a message on stderr and exit code 2."""
        try:
            with console.warnings_reported():
                return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            console.report("interrupted")
            ctx.exit(_INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has closed it; Python would complain when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except Exception as error:
            console.report_error(error, with_traceback=ctx.meta.get(console.TRACEBACK, False))
            ctx.exit(2)


@click.group(
    cls=Passctl,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
MODEL is one of
  package.module:name   a module, or a callable that returns a module, or a module and its example inputs
  resnet50              a model of graphpress.tools.models
  model.pt2             a program saved by torch.export.save
  graph.gir             a graph saved by `passctl run -o`
  model.aimodel         a Core AI asset, or a .mlpackage for Core ML

Text and JSON go to stdout, everything else to stderr. Exit codes: 0 same or ok, 1 differs or fails, 2 error.

\b
Shell completion:  eval "$(_PASSCTL_COMPLETE=bash_source passctl)"     (or zsh_source, fish_source)
""",
)
@click.version_option(package_name="graphpress")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Inspect the effect of compiler passes on a model, and compress it."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main(args: Sequence[str] | None = None) -> None:
    """Run the console script."""
    cli.main(args=None if args is None else list(args), prog_name="passctl")


if __name__ == "__main__":
    main()
