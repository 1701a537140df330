/**
 * The rows of a Parquet file as JSONL, columns in the file's order: the names by which the harness hashes a doc
 * depend on it. Reading is hyparquet's; what is here is what a row may hold. The file is outside data.
 */
import type { AsyncBuffer } from "hyparquet";
import { parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { CodedError } from "../../ops/errors.ts";

/** Docs in a task file, at most. */
export const maxDocs = 1_000_000;
/** Bytes that the columns of one file may unpack to, at most. */
const maxUnpackedBytes = 1024 ** 3;

/** @returns whether a file begins as a Parquet file does. */
export function isParquet(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && String.fromCharCode(...bytes.subarray(0, 4)) === "PAR1";
}

/**
 * @param where names the file in messages
 * @returns one JSON object a line
 * @throws dataset_invalid
 */
export async function rowsToJsonl(bytes: Uint8Array, where: string): Promise<string> {
  try {
    const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
    const file: AsyncBuffer = { byteLength: buffer.byteLength, slice: (start, end) => buffer.slice(start, end) };
    const metadata = await parquetMetadataAsync(file);
    const numRows = Number(metadata.num_rows);
    const unpacked = metadata.row_groups.reduce((sum, group) => sum + Number(group.total_byte_size), 0);
    if (numRows > maxDocs) throw invalid(where, `${numRows} rows, at most ${maxDocs} are read`);
    if (unpacked > maxUnpackedBytes) throw invalid(where, `unpacks to ${unpacked} bytes, at most ${maxUnpackedBytes}`);
    const rows = await parquetReadObjects({ file, metadata, compressors });
    if (rows.length !== numRows) throw invalid(where, `${rows.length} rows, its end says ${numRows}`);
    return rows.map((row) => `${JSON.stringify(row, plain)}\n`).join("");
  } catch (error) {
    if (error instanceof CodedError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new CodedError("dataset_invalid", `${where} is not a Parquet file that can be read: ${reason}`, {
      cause: error,
    });
  }
}

/** 64-bit integers come as bigint; what has no JSON is refused. */
function plain(name: string, value: unknown): unknown {
  if (typeof value !== "bigint") return value ?? null;
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new CodedError("dataset_invalid", `column ${name} holds ${value}, integers up to 2^53 are read`);
}

function invalid(where: string, problem: string): CodedError {
  return new CodedError("dataset_invalid", `${where}: ${problem}`);
}
