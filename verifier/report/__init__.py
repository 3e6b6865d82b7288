"""The report: one page of HTML on runs of `certify`, on a list of instances, or on one instance of VNN-LIB."""

from verifier.report.blocks import (
    Block,
    Cell,
    Command,
    Exhibit,
    Facts,
    Figure,
    Gallery,
    Log,
    Picture,
    Table,
    Text,
    Tiles,
)
from verifier.report.section import SECTIONS, Section, section
from verifier.report.write import html_report

__all__ = [
    "Block", "Cell", "Command", "Exhibit", "Facts", "Figure", "Gallery", "Log", "Picture", "SECTIONS", "Section",
    "Table", "Text", "Tiles", "html_report", "section",
]  # fmt: skip
