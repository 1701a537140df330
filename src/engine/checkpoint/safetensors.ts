/**
 * The safetensors format, bytes only: 8 bytes of header length (little-endian), a JSON header, tensor data
 * without holes. The reader is as strict as the format's text, which is stricter than the official library
 * in two places: the header begins with `{`, and keys are unique. It knows every element type the format
 * has; which of them a checkpoint may use is decided by its reader. The writer lays tensors out as the
 * official one does, so that equal content gives equal bytes.
 * Source: https://github.com/huggingface/safetensors (format description and tensor.rs).
 */
import { CodedError } from "../../ops/errors.ts";
import type { StrictObject, StrictValue } from "./strictJson.ts";
import { InexactNumber, parseStrictJson, quoted } from "./strictJson.ts";

/** Header bytes, at most: the official library's limit. */
export const maxHeaderBytes = 100_000_000;
/** Bytes before the header: its length. */
export const prefixBytes = 8;
/** Extents of one tensor, at most; a limit of ours (numpy's own is 64). */
const maxRank = 64;
const maxNameLength = 16_384;
/** JSON values in one header: about 600,000 tensors, several times the largest published file. */
const maxHeaderValues = 5_000_000;
/** The header is padded so that data begins at a multiple of this. */
const headerAlignmentBytes = 8;
const unsigned64Limit = 1n << 64n;

/** Every element type of the format with its size in bits. */
const dtypeBits = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type SafetensorsDtype = keyof typeof dtypeBits;

/** One entry of a header. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface SafetensorsHeader {
  /** In the order in which their bytes lie in the file. */
  readonly tensors: readonly SafetensorsEntry[];
  readonly metadata: ReadonlyMap<string, string>;
  /** First byte of tensor data, counted from the start of the file. */
  readonly dataOffset: number;
}

/** What the header writer needs of a tensor. */
export interface SafetensorsInfo {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

function fail(fileName: string, problem: string): never {
  throw new CodedError("checkpoint_corrupt", `${fileName}: ${problem}`);
}

/**
 * Reads the length prefix.
 * @param prefix the first 8 bytes, or all there are
 * @param fileBytes size of the whole file
 * @returns header length in bytes
 * @throws checkpoint_corrupt
 */
export function parseHeaderLength(prefix: Uint8Array, fileBytes: number, fileName: string): number {
  if (prefix.length < prefixBytes || fileBytes < prefixBytes) {
    fail(fileName, `header too small: ${fileBytes} bytes, at least ${prefixBytes} wanted`);
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, prefixBytes);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) fail(fileName, `header too large: ${length} bytes, at most ${maxHeaderBytes}`);
  if (Number(length) > fileBytes - prefixBytes) {
    fail(fileName, `invalid header length: ${length} bytes, but only ${fileBytes - prefixBytes} follow`);
  }
  return Number(length);
}

/**
 * Reads and fully checks a header; no tensor is handed out of a file that lies anywhere.
 * @param header the header bytes, without the prefix
 * @param fileBytes size of the whole file
 * @throws checkpoint_corrupt naming file, tensor, the value got and the value wanted
 */
export function parseHeader(header: Uint8Array, fileBytes: number, fileName: string): SafetensorsHeader {
  if (header[0] !== 0x7b) fail(fileName, "the header does not begin with {");
  const what = `${fileName} header`;
  const root = parseStrictJson(header, { what, code: "checkpoint_corrupt", maxDepth: 16, maxValues: maxHeaderValues });
  if (!(root instanceof Map)) fail(fileName, "the header is not a JSON object");
  const dataOffset = prefixBytes + header.length;
  const metadata = parseMetadata(root.get("__metadata__"), fileName);
  const tensors: SafetensorsEntry[] = [];
  for (const [name, value] of root) {
    if (name !== "__metadata__") tensors.push(parseEntry(name, value, dataOffset, fileName));
  }
  tensors.sort((a, b) => a.offset - b.offset || a.sizeBytes - b.sizeBytes);
  checkCoverage(tensors, dataOffset, fileBytes, fileName);
  return { tensors, metadata, dataOffset };
}

function parseMetadata(value: StrictValue | undefined, fileName: string): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>();
  if (value === undefined || value === null) return metadata;
  if (!(value instanceof Map)) fail(fileName, "__metadata__ is not an object");
  for (const [key, text] of value) {
    if (typeof text !== "string") fail(fileName, `__metadata__ ${quoted(key)} is not a string`);
    metadata.set(key, text);
  }
  return metadata;
}

function parseEntry(name: string, value: StrictValue, dataOffset: number, fileName: string): SafetensorsEntry {
  const label = `tensor ${quoted(name)}`;
  if (name.length > maxNameLength) fail(fileName, `${label}: a name of ${name.length} characters`);
  if (!(value instanceof Map)) fail(fileName, `${label}: its info is not an object`);
  const dtype = value.get("dtype");
  if (typeof dtype !== "string") fail(fileName, `${label}: dtype is missing or not a string`);
  if (!isSafetensorsDtype(dtype)) fail(fileName, `${label}: unknown dtype ${quoted(dtype)}`);
  const shape = integers(value, "shape", label, fileName);
  if (shape.length > maxRank) fail(fileName, `${label}: ${shape.length} axes, at most ${maxRank}`);
  const offsets = integers(value, "data_offsets", label, fileName);
  const [begin, end] = offsets;
  if (offsets.length !== 2 || begin === undefined || end === undefined) {
    fail(fileName, `${label}: data_offsets has ${offsets.length} numbers, 2 wanted`);
  }
  if (end < begin) fail(fileName, `${label}: invalid offset: data_offsets end ${end} before they begin ${begin}`);
  const wanted = tensorBytes(dtype, shape, label, fileName);
  if (end - begin !== wanted) {
    fail(fileName, `${label}: data_offsets hold ${end - begin} bytes, ${dtype} [${shape.join(", ")}] needs ${wanted}`);
  }
  return { name, dtype, shape, offset: dataOffset + begin, sizeBytes: wanted };
}

function isSafetensorsDtype(dtype: string): dtype is SafetensorsDtype {
  return Object.hasOwn(dtypeBits, dtype);
}

function integers(info: StrictObject, field: string, label: string, fileName: string): number[] {
  const value = info.get(field);
  if (!Array.isArray(value)) fail(fileName, `${label}: ${field} is missing or not an array`);
  const notAnInteger = (got: string): never =>
    fail(fileName, `${label}: ${field} holds ${got}, an integer from 0 to 2^53 - 1 wanted`);
  return value.map((item) => {
    if (typeof item === "number" && item >= 0) return item;
    if (item instanceof InexactNumber) return notAnInteger(item.text.slice(0, 40));
    return notAnInteger(typeof item === "number" ? String(item) : typeof item);
  });
}

/** Product in 64-bit unsigned arithmetic, refused where it would wrap (even before a factor of 0). */
function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[], label: string, fileName: string): number {
  let elements = 1n;
  for (const extent of shape) {
    elements *= BigInt(extent);
    if (elements >= unsigned64Limit) fail(fileName, `${label}: its shape overflows 64 bits`);
  }
  const bits = elements * BigInt(dtypeBits[dtype]);
  if (bits >= unsigned64Limit) fail(fileName, `${label}: its size overflows 64 bits`);
  if (bits % 8n !== 0n) fail(fileName, `${label}: ${dtype} [${shape.join(", ")}] does not fill whole bytes`);
  const bytes = bits / 8n;
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) fail(fileName, `${label}: ${bytes} bytes is beyond 2^53 - 1`);
  return Number(bytes);
}

/** Tensors follow one another without hole or overlap, from the first data byte to the last of the file. */
function checkCoverage(
  tensors: readonly SafetensorsEntry[],
  dataOffset: number,
  fileBytes: number,
  fileName: string,
): void {
  let end = dataOffset;
  for (const tensor of tensors) {
    if (tensor.offset !== end) {
      const problem = tensor.offset > end ? "a gap before it" : "it overlaps the one before";
      const where = `begins at byte ${tensor.offset - dataOffset}, expected ${end - dataOffset}`;
      fail(fileName, `tensor ${quoted(tensor.name)}: invalid offset: ${where} (${problem})`);
    }
    end += tensor.sizeBytes;
  }
  if (end !== fileBytes) {
    const problem = end > fileBytes ? "is cut short" : "has bytes after the last tensor";
    fail(fileName, `the file ${problem}: ${fileBytes} bytes, its header describes ${end}`);
  }
}

/**
 * Lays tensors out as the official library does: by element size, widest first, then by name (in UTF-8
 * order), header padded with spaces to a multiple of 8.
 * @returns the prefix and header bytes, and the tensors in file order with offsets from the file's start
 */
export function formatHeader(
  infos: readonly SafetensorsInfo[],
  metadata: Readonly<Record<string, string>> = {},
): { bytes: Uint8Array; tensors: SafetensorsEntry[]; fileBytes: number } {
  const ordered = infos.map((info) => ({ info, key: Buffer.from(info.name, "utf8") }));
  ordered.sort((a, b) => dtypeRank(b.info.dtype) - dtypeRank(a.info.dtype) || Buffer.compare(a.key, b.key));
  // Object literals would move integer-like names first, so members are joined by hand.
  const members: string[] = [];
  if (Object.keys(metadata).length > 0) members.push(`"__metadata__":${JSON.stringify(metadata)}`);
  const entries: SafetensorsEntry[] = [];
  let end = 0;
  for (const { info } of ordered) {
    const sizeBytes = tensorBytes(info.dtype, info.shape, `tensor ${quoted(info.name)}`, "header to write");
    const body = { dtype: info.dtype, shape: info.shape, data_offsets: [end, end + sizeBytes] };
    members.push(`${JSON.stringify(info.name)}:${JSON.stringify(body)}`);
    entries.push({ name: info.name, dtype: info.dtype, shape: info.shape, offset: end, sizeBytes });
    end += sizeBytes;
  }
  const json = Buffer.from(`{${members.join(",")}}`, "utf8");
  const headerBytes = Math.ceil(json.length / headerAlignmentBytes) * headerAlignmentBytes;
  if (headerBytes > maxHeaderBytes) fail("header to write", `${headerBytes} bytes, at most ${maxHeaderBytes}`);
  const bytes = new Uint8Array(prefixBytes + headerBytes).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerBytes), true);
  bytes.set(json, prefixBytes);
  const tensors = entries.map((entry) => ({ ...entry, offset: entry.offset + bytes.length }));
  return { bytes, tensors, fileBytes: bytes.length + end };
}

/** The library sorts by its dtype enumeration, descending: its order is that of `dtypeBits`. */
function dtypeRank(dtype: SafetensorsDtype): number {
  return Object.keys(dtypeBits).indexOf(dtype);
}
