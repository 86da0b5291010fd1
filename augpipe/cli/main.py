"""The `augpipe` command: its subcommands, and what becomes of errors.

Nothing heavy is imported here: a command imports what it needs when it runs, so that
`augpipe --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from augpipe import __version__
from augpipe.cli import datasets, fitting, imports, pictures, recipes, training
from augpipe.errors import AugpipeError, RecipeError, in_a_line, printable, reason


class Commands(TyperGroup):
    """The commands; whatever goes wrong in one is told in a line, without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes `--debug` wherever it stands."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command and turns an exception into a message and an exit code."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, typer.Exit) or _is_usage(error):
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            raise typer.Exit(tell(error)) from None


def _is_usage(error: BaseException) -> bool:
    """Tells whether typer itself will show an error: a wrong option, a missing argument."""
    return hasattr(error, "show") and hasattr(error, "exit_code")


def _is_interrupted(error: BaseException | None) -> bool:
    """Tells whether Ctrl-C is behind an error: in the middle of an import it comes as another."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def tell(error: BaseException) -> int:
    """Says on stderr what went wrong; returns the exit code."""
    match error:
        case Exception() if _is_interrupted(error):
            return tell(KeyboardInterrupt())
        case BrokenPipeError():
            # Whoever read us has seen enough; nothing may be written at the exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case KeyboardInterrupt():
            words = ": ".join(("stopped", *getattr(error, "__notes__", ())))
        case RecipeError():
            words = "\n".join(printable(str(problem)) for problem in error.problems)
        case AugpipeError():
            words = printable(str(error))
        case OSError() if error.strerror:
            words = printable(f"{error.filename or 'output'}: {reason(error)}")
        case MemoryError():
            words = "not enough memory"
        case _:
            words = printable(f"internal error: {in_a_line(error)} (--debug shows where)")
    print(words, file=sys.stderr)
    return error.exit_code if isinstance(error, AugpipeError) else 1


app = typer.Typer(
    cls=Commands,
    name="augpipe",
    add_completion=False,
    no_args_is_help=True,
    # Plain help takes 0.06 s, rich help 0.17 s.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"augpipe {__version__}")
        raise typer.Exit


def _example(words: str) -> str:
    return f"\b\nExample:\n  {words}"  # \b: lines stay as they are


@app.callback(epilog=_example("augpipe check configs/quickstart.yaml"))
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Declarative image augmentation: one YAML recipe, the same pixels everywhere."""


for _command, _words in (
    (recipes.check, "augpipe check configs/quickstart.yaml"),
    (recipes.explain, "augpipe explain configs/quickstart.yaml --size 28 28"),
    (pictures.preview, "augpipe preview configs/quickstart.yaml samples/garments -o sheet.png"),
    (datasets.expand, "augpipe expand configs/quickstart.yaml samples/garments runs/garments"),
    (
        datasets.convert,
        "augpipe convert samples runs/yolo --to yolo",
    ),
    (datasets.verify, "augpipe verify runs/garments"),
    (recipes.ops, "augpipe ops rotate"),
    (recipes.regularizers, "augpipe regularizers dropblock"),
    (imports.import_, "augpipe import samples/imports/torchvision.txt"),
    (recipes.schema, "augpipe schema > augpipe.schema.json"),
    (training.train, "augpipe train configs/quickstart-train.yaml samples/garments"),
    (
        training.compare,
        "augpipe compare configs/plain.yaml configs/quickstart-train.yaml --data samples/garments",
    ),
    (pictures.bench, "augpipe bench configs/quickstart.yaml samples/photos"),
):
    # `import` is a word of Python's: its function ends in an underscore.
    app.command(_command.__name__.rstrip("_"), epilog=_example(_words))(_command)

_fit = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, context_settings=app.info.context_settings
)
_fit.command(
    "autoencoder",
    epilog=_example("augpipe fit autoencoder samples/photos -o runs/ae.safetensors --steps 20"),
)(fitting.autoencoder)
_fit.command(
    "gan",
    epilog=_example("augpipe fit gan samples/garments -o runs/gan.safetensors --steps 20"),
)(fitting.gan)
_fit.command(
    "policy",
    epilog=_example(
        "augpipe fit policy samples/garments -o runs/policy.yaml --steps 40 --control-steps 10"
    ),
)(fitting.policy)
_fit.command(
    "meta",
    epilog=_example(
        "augpipe fit meta samples/garments -o runs/meta.safetensors --steps 20 --control-steps 20"
    ),
)(fitting.meta)
app.add_typer(_fit, name="fit", help="Fit a learned augmenter to images of yours.")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: The arguments; the process's own by default.

    Returns:
        The exit code: 0 fine, 1 a failure while running, 2 bad usage or recipe.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A name that the terminal cannot show must not end the program.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=args, prog_name="augpipe")
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except (OSError, KeyboardInterrupt) as error:
        return tell(error)
    return 0
