"""Parquet: a document a row, read in small batches whatever the size of the row groups."""

from collections.abc import Iterator
from typing import Any, Final

from asiarch.hpc.data.formats.document import BadFileError, Document, bad_row, missing_column, of_row
from asiarch.hpc.data.sources import SourceFile
from asiarch.models.errors import UserError

_ROWS: Final = 256


def read_parquet(file: SourceFile, start: int, text_column: str) -> Iterator[Document]:
    """The documents after the first `start` rows."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("reading Parquet needs pyarrow: pip install 'asiarch-hpc[data]'") from None
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            _require_text(table.schema_arrow, text_column)
            groups = list(range(table.num_row_groups))
            while groups and row + (rows := table.metadata.row_group(groups[0]).num_rows) <= start:
                row += rows
                del groups[0]
            for batch in table.iter_batches(_ROWS, row_groups=groups, columns=[text_column]):
                for value in _values(batch.column(0)):
                    row += 1
                    if row > start:
                        yield _document(value, text_column, row, file.size * row // table.metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).strip().splitlines()[0]
        raise BadFileError(f"not a whole Parquet file ({reason})", f"row {row + 1}" if row else "") from None


def _require_text(schema: Any, column: str) -> None:
    import pyarrow.types as types

    if column not in schema.names:
        raise BadFileError(missing_column(column, schema.names))
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise BadFileError(f"its column {column!r} holds {kind}, not text")


def _values(column: Any) -> Iterator[Any]:
    for value in column:
        try:
            yield value.as_py()
        except UnicodeDecodeError as error:
            yield error


def _document(value: Any, column: str, row: int, read: int) -> Document:
    if isinstance(value, UnicodeDecodeError):
        return bad_row("not UTF-8", row, read)
    return of_row(value, column, row, read)
