"""The command line. Commands import what they need when they run: `--help` does not import torch."""


def main() -> None:
    """Run the command line on `sys.argv`. Ends the process; exit code 2 means that the input was at fault."""
    from sparsernn.cli.app import app

    app(prog_name="sparsernn")
