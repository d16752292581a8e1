"""The command line: thin commands over the package. torch is imported by the commands, never for their help."""

import click

from faitheir.cli import bulk, export, info, measure, pictures, serve, train
from faitheir.cli.options import EPILOG, Commands, verbose_option


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@verbose_option
@click.version_option(package_name="faitheir", message="%(package)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Turn photographs into thumbnail files 16 or 32 times smaller on each side, and restore full-size pictures from
    those files alone.

    The detail in a restored picture is generated: it is plausible, not recorded. Do not use it as evidence, for
    documents, or to identify anyone.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    *(pictures.downscale, pictures.upscale, pictures.roundtrip, info.info),
    *(measure.evaluate, measure.compare, measure.report),
    *(train.train, train.data),
    serve.serve,
    bulk.bulk,
    export.export,
):
    main.add_command(_command)
