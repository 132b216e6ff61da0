"""Excel workbooks for tests, written by hand: only what a reader has to understand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
# Style 1 shows a date by its built-in number, style 2 by a code of its own, style 3 a currency that only looks like one. Styles
# 4 to 6 show another number than the cell holds (zeros in front, a percentage, thousands taken off), style 7 is that of accounts.
# Styles 8 to 11 round to a whole number, write in powers of ten, show nothing, and show thousands from a condition on; styles 12 and 13
# put letters and dashes around a number, styles 14 and 15 (a code of its own, a built-in one) show money below zero in red.
STYLES = f"""<styleSheet {MAIN}><numFmts count="10"><numFmt numFmtId="164" formatCode="dd.mm.yyyy"/>
<numFmt numFmtId="165" formatCode='[$USD] #,##0.00" days"'/>
<numFmt numFmtId="166" formatCode="00000"/><numFmt numFmtId="167" formatCode="#,##0,"/>
<numFmt numFmtId="168" formatCode="_-* #,##0.00\\ _-;-* 000.00_-"/>
<numFmt numFmtId="169" formatCode=";;;"/><numFmt numFmtId="170" formatCode='[&lt;1000]0.00;0.0,"k"'/>
<numFmt numFmtId="171" formatCode='"ORD-"0'/><numFmt numFmtId="172" formatCode="000\\-000"/>
<numFmt numFmtId="173" formatCode='"£"#,##0.00_);[Red]\\("£"#,##0.00\\)'/></numFmts><cellStyleXfs><xf numFmtId="14"/></cellStyleXfs>
<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/>
<xf numFmtId="166"/><xf numFmtId="9"/><xf numFmtId="167"/><xf numFmtId="168"/>
<xf numFmtId="1"/><xf numFmtId="11"/><xf numFmtId="169"/><xf numFmtId="170"/><xf numFmtId="171"/><xf numFmtId="172"/><xf numFmtId="173"/><xf numFmtId="40"/></cellXfs></styleSheet>"""


def letters(column: int) -> str:
    """Name a column, from 0."""
    name = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def number(digits: str, style: int = 0) -> str:
    """Write a number's cell, all but its place."""
    return f' s="{style}"><v>{digits}</v></c>'


def text(content: str) -> str:
    """Write a text's cell, all but its place."""
    return f' t="inlineStr"><is><t xml:space="preserve">{escape(content, {chr(13): "&#13;"})}</t></is></c>'


def formula(what: str, result: str) -> str:
    """Write a formula's cell, all but its place."""
    return f"><f>{escape(what)}</f><v>{result}</v></c>"


def sheet(rows: Sequence[Sequence[str | None]], *, hidden: frozenset[int] = frozenset()) -> str:
    """Write a sheet of cells, `None` where there is none; row numbers from 1, those that are hidden too."""
    written = []
    for at, cells in enumerate(rows, start=1):
        body = "".join(f'<c r="{letters(n)}{at}"{cell}' for n, cell in enumerate(cells) if cell is not None)
        written.append(f'<row r="{at}"{" hidden=" + quoteattr("1") if at in hidden else ""}>{body}</row>')
    return f"<worksheet {MAIN}><sheetData>{''.join(written)}</sheetData></worksheet>"


def workbook(sheets: dict[str, str], *, shared: str = "", hidden: frozenset[str] = frozenset()) -> bytes:
    """Write a workbook of sheets by name, and of the texts that cells share (`<si>…</si>`)."""
    names = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{at}" r:id="rId{at}"{" state=" + quoteattr("hidden") if name in hidden else ""}/>'
        for at, name in enumerate(sheets, start=1)
    )
    relations = "".join(
        f'<Relationship Id="rId{at}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{at}.xml"/>'
        for at in range(1, len(sheets) + 1)
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>')
        archive.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}">{relations}</Relationships>')
        archive.writestr("xl/styles.xml", STYLES)
        if shared:
            archive.writestr("xl/sharedStrings.xml", f"<sst {MAIN}>{shared}</sst>")
        for at, content in enumerate(sheets.values(), start=1):
            archive.writestr(f"xl/worksheets/sheet{at}.xml", content)
    return stream.getvalue()
