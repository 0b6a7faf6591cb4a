//! Parquet: the text column alone is decoded, page by page. All text types (string, large string,
//! string view, dictionary, binary) are one physical type in the file, so one reader serves them.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::Type;

use super::column::{Column, choose_text_column};
use super::documents::{Documents, open};
use super::{ReadOptions, share};
use crate::{Error, Result};

/// Most rows held at a time; fewer where rows are long.
const BATCH_ROWS: i64 = 256;
/// Text held at a time, about.
const BATCH_BYTES: i64 = 4 << 20;

/// Hand on the texts of slice j of k of the file's row groups.
pub fn read(path: &Path, slice: (u32, u32), options: &ReadOptions, documents: &mut Documents<'_>) -> Result<()> {
    let file = open_footer(path)?;
    let name = choose_text_column(path, &columns(&file), options.text_column.as_deref())?;
    let (first, end) = share(file.metadata().num_row_groups() as u64, slice);
    for group in first..end {
        read_group(path, &file, group as usize, &name, documents)?;
    }
    Ok(())
}

/// Columns of a file and their types.
pub fn columns_of(path: &Path) -> Result<Vec<Column>> {
    Ok(columns(&open_footer(path)?))
}

/// Bytes of a column before compression, as the footer has them.
pub fn text_bytes(path: &Path, name: &str) -> Result<u64> {
    let file = open_footer(path)?;
    let chunks = file.metadata().row_groups().iter().filter_map(|group| Some(group.column(index_of(group, name)?)));
    Ok(chunks.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0)).fold(0, u64::saturating_add))
}

fn index_of(group: &RowGroupMetaData, name: &str) -> Option<usize> {
    group.columns().iter().position(|column| matches!(column.column_path().parts(), [only] if only == name))
}

fn open_footer(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = open(path)?;
    contained(path, || "footer".into(), || SerializedFileReader::new(file))
}

fn columns(file: &SerializedFileReader<File>) -> Vec<Column> {
    let fields = file.metadata().file_metadata().schema().get_fields();
    fields.iter().map(|field| Column { name: field.name().into(), kind: type_name(field) }).collect()
}

fn type_name(field: &Type) -> String {
    let info = field.get_basic_info();
    let logical = info.logical_type_ref();
    if field.is_group() {
        let list = matches!(logical, Some(LogicalType::List)) || info.converted_type() == ConvertedType::LIST;
        return if list { "list".into() } else { "struct".into() };
    }
    if info.has_repetition() && info.repetition() == parquet::basic::Repetition::REPEATED {
        return "list".into();
    }
    let string = matches!(logical, Some(LogicalType::String)) || info.converted_type() == ConvertedType::UTF8;
    match field.get_physical_type() {
        Physical::BYTE_ARRAY if string => "string".into(),
        Physical::BYTE_ARRAY if logical.is_none() && info.converted_type() == ConvertedType::NONE => "binary".into(),
        Physical::BYTE_ARRAY => "annotated bytes".into(),
        Physical::FIXED_LEN_BYTE_ARRAY => "fixed bytes".into(),
        physical => physical.to_string().to_lowercase(),
    }
}

fn read_group(
    path: &Path,
    file: &SerializedFileReader<File>,
    group: usize,
    name: &str,
    documents: &mut Documents<'_>,
) -> Result<()> {
    let place = || format!("row group {group}, column {name}");
    let meta = file.metadata().row_group(group);
    let (mut column, batch_rows) = contained(path, place, || open_column(file, meta, group, name))?;
    let (mut values, mut present): (Vec<ByteArray>, Vec<i16>) = (Vec::new(), Vec::new());
    let mut row = 0_i64;
    loop {
        values.clear();
        present.clear();
        let (rows, ..) =
            contained(path, place, || column.read_records(batch_rows, Some(&mut present), None, &mut values))?;
        if rows == 0 {
            break;
        }
        let mut texts = values.iter();
        for offset in 0..rows {
            let at = row + offset as i64;
            // No levels: the column cannot be null. One level: 1 where there is a value.
            if present.get(offset).is_none_or(|&level| level > 0) {
                let Some(text) = texts.next() else {
                    return Err(bad(path, format!("{}: row {at} has no value", place())));
                };
                documents.text(text.data(), path, || format!("row group {group}, row {at}"))?;
            } else {
                documents.null()?;
            }
        }
        row += rows as i64;
    }
    if row != meta.num_rows() {
        return Err(bad(path, format!("{}: {row} rows, the footer says {}", place(), meta.num_rows())));
    }
    Ok(())
}

fn open_column(
    file: &SerializedFileReader<File>,
    meta: &RowGroupMetaData,
    group: usize,
    name: &str,
) -> Result<(ColumnReaderImpl<ByteArrayType>, usize), ParquetError> {
    let index = index_of(meta, name).ok_or_else(|| ParquetError::General("column missing".into()))?;
    let per_row = (meta.column(index).uncompressed_size() / meta.num_rows().max(1)).max(1);
    let batch_rows = (BATCH_BYTES / per_row).clamp(1, BATCH_ROWS);
    match file.get_row_group(group)?.get_column_reader(index)? {
        ColumnReader::ByteArrayColumnReader(reader) => Ok((reader, batch_rows as usize)),
        _ => Err(ParquetError::General("not a column of bytes".into())),
    }
}

/// Run a call into the parquet crate. Its errors and panics on damaged files become [`Error::BadFile`].
fn contained<T>(path: &Path, place: impl Fn() -> String, call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ParquetError::External(inner))) => match inner.downcast::<std::io::Error>() {
            Ok(error) => Err(super::documents::read_error(path, &place(), *error)),
            Err(other) => Err(bad(path, format!("{}: {other}", place()))),
        },
        Ok(Err(error)) => Err(bad(path, format!("{}: {error}", place()))),
        Err(_) => Err(bad(path, format!("{}: the decoder gave up on damaged data", place()))),
    }
}

fn bad(path: &Path, what: String) -> Error {
    Error::BadFile { path: path.to_owned(), what }
}
