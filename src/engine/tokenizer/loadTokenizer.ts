/**
 * Where a tokenizer comes from: the contents of its files, or the blobs of a checkpoint that a manifest names.
 * The second form is all a compute process or a worker thread needs.
 */
import { readFile, stat } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { BlobLocation, FileRef, TokenizerRef } from "../../ops/manifest.ts";
import { createBytesTokenizer } from "./bytesTokenizer.ts";
import type { TokenizerFiles } from "./huggingFaceTokenizer.ts";
import { createHuggingFaceTokenizer } from "./huggingFaceTokenizer.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { invalid, maxChatTemplateBytes, maxTokenizerConfigBytes, maxTokenizerJsonBytes } from "./tokenizerJson.ts";

/** The files of a checkpoint that make its tokenizer; the rest of a directory does not matter to it. */
export const tokenizerFileNames = [
  ...["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"],
] as const;

/**
 * Builds a Hugging Face tokenizer from file contents.
 * @throws tokenizer_invalid
 */
export function loadTokenizer(files: TokenizerFiles): Tokenizer {
  return createHuggingFaceTokenizer(files);
}

async function readBlob(
  file: FileRef,
  blobs: Readonly<Record<string, BlobLocation>>,
  maxBytes: number,
): Promise<Uint8Array> {
  const location = Object.hasOwn(blobs, file.blob) ? blobs[file.blob] : undefined;
  if (!location) throw new CodedError("checkpoint_missing_file", `${file.name}: blob ${file.blob} is not here`);
  const { size } = await stat(location.path).catch((cause: unknown) => {
    throw new CodedError("checkpoint_missing_file", `${file.name}: its file cannot be read`, { cause });
  });
  if (size > maxBytes) throw invalid(`${file.name}: ${size} bytes, at most ${maxBytes} are read`);
  return readFile(location.path);
}

/**
 * Builds the tokenizer that a manifest names.
 * @throws tokenizer_invalid, checkpoint_missing_file
 */
export async function loadTokenizerRef(
  ref: TokenizerRef,
  blobs: Readonly<Record<string, BlobLocation>>,
): Promise<Tokenizer> {
  if (ref.kind === "bytes") return createBytesTokenizer();
  const read = async (name: string, maxBytes: number): Promise<Uint8Array | undefined> => {
    const file = ref.files.find((candidate) => candidate.name === name);
    return file ? readBlob(file, blobs, maxBytes) : undefined;
  };
  const tokenizerJson = await read("tokenizer.json", maxTokenizerJsonBytes);
  if (!tokenizerJson) throw invalid(`checkpoint ${ref.checkpoint} has no tokenizer.json`);
  return loadTokenizer({
    tokenizerJson,
    tokenizerConfigJson: await read("tokenizer_config.json", maxTokenizerConfigBytes),
    specialTokensMap: await read("special_tokens_map.json", maxTokenizerConfigBytes),
    chatTemplate: await read("chat_template.jinja", maxChatTemplateBytes),
  });
}
