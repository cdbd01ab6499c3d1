"""Workbooks as spreadsheet programs write them, byte by byte."""

import zipfile
from xml.sax.saxutils import escape


def write_xlsx(path, sheets, merged=()):
    """Write a workbook as Excel does: sheets by name, each with rows of cells.

    A cell is a text, a number, a boolean, None, or a pair: XML within <c> and attributes of it.
    """
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"

    def cell(name, value):
        if value is None:
            return ""
        if isinstance(value, tuple):
            return f'<c r="{name}" {value[1]}>{value[0]}</c>'
        if isinstance(value, bool):
            return f'<c r="{name}" t="b"><v>{int(value)}</v></c>'
        if isinstance(value, str):
            return f'<c r="{name}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return f'<c r="{name}"><v>{value!r}</v></c>'

    with zipfile.ZipFile(path, "w") as archive:
        names = range(1, len(sheets) + 1)
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="xml" '
            'ContentType="application/xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
            + "".join(
                f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>'
                for n, name in zip(names, sheets, strict=True)
            )
            + "</sheets></workbook>",
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships">'
            + "".join(
                f'<Relationship Id="rId{n}" Type="{office}/worksheet" '
                f'Target="worksheets/sheet{n}.xml"/>'
                for n in names
            )
            + f'<Relationship Id="rId9" Type="{office}/styles" Target="styles.xml"/>'
            "</Relationships>",
        )
        archive.writestr(
            "xl/styles.xml",
            f'<styleSheet xmlns="{main}"><cellXfs count="3"><xf numFmtId="0"/>'
            '<xf numFmtId="14"/><xf numFmtId="22"/></cellXfs></styleSheet>',
        )
        for n, rows in zip(names, sheets.values(), strict=True):
            lines_ = "".join(
                f'<row r="{r}">'
                + "".join(cell(f"{chr(64 + c)}{r}", v) for c, v in enumerate(row, start=1))
                + "</row>"
                for r, row in enumerate(rows, start=1)
            )
            merges = "".join(f'<mergeCell ref="{ref}"/>' for ref in merged)
            merges = f"<mergeCells>{merges}</mergeCells>" if merged else ""
            archive.writestr(
                f"xl/worksheets/sheet{n}.xml",
                f'<worksheet xmlns="{main}"><sheetData>{lines_}</sheetData>{merges}</worksheet>',
            )
    return path


def write_ods(path, rows):
    """Write an OpenDocument spreadsheet with one sheet of texts and numbers."""
    urn = "urn:oasis:names:tc:opendocument:xmlns"

    def cell(value):
        if isinstance(value, str):
            return (
                '<table:table-cell office:value-type="string">'
                f"<text:p>{escape(value)}</text:p></table:table-cell>"
            )
        return (
            f'<table:table-cell office:value-type="float" office:value="{value}">'
            f"<text:p>{value}</text:p></table:table-cell>"
        )

    body = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "META-INF/manifest.xml",
            f'<manifest:manifest xmlns:manifest="{urn}:manifest:1.0"/>',
        )
        archive.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{urn}:office:1.0" '
            f'xmlns:table="{urn}:table:1.0" xmlns:text="{urn}:text:1.0"><office:body>'
            f'<office:spreadsheet><table:table table:name="One">{body}</table:table>'
            "</office:spreadsheet></office:body></office:document-content>",
        )
    return path
