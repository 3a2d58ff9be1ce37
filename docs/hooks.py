"""MkDocs hooks: fill tables that are made from the code into the pages."""

from typing import Any

from vxlpro_jax.config import schema_table

_CONFIG_FIELDS = "<!-- config-fields -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the mark of the config table, on the page that has it, by the table."""
    if _CONFIG_FIELDS not in markdown:
        return markdown
    return markdown.replace(_CONFIG_FIELDS, schema_table.markdown())
