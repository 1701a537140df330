/**
 * Text to packed token shards. Two passes over the corpus: the first finds the documents, their identity and
 * nothing else; the second reads them in their shuffled order, tokenizes them in parallel and writes training
 * and validation tokens, an end-of-sequence token after every document (as the paper's data was packed). Memory
 * is a flat index of the documents and a few megabytes of text. A special token spelled out in a text becomes
 * that token, as Hugging Face tokenizers have it. The result depends on the corpus, the tokenizer, the fraction
 * and the seed, not on the machine. Source: "Stacking Your Transformers", section B.3.
 */
import { createHash } from "node:crypto";
import { availableParallelism } from "node:os";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { BlobLocation, DatasetManifest, TokenizerRef } from "../../ops/manifest.ts";
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { DocumentIndex } from "./documentIndex.ts";
import type { Corpus } from "./documentText.ts";
import { DocumentReader } from "./documentText.ts";
import { hashText, scanFile } from "./scan.ts";
import type { TokenDtype } from "./shardWriter.ts";
import { ShardWriter, tokenDtypeFor } from "./shardWriter.ts";
import type { DatasetBuildSource } from "./sources.ts";
import { listCorpusFiles } from "./sources.ts";
import type { Split, SplitPart } from "./split.ts";
import { splitDocuments } from "./split.ts";
import type { TokenizeBatch, TokenizedBatch } from "./tokenizePool.ts";
import { tokenizeBatches, tokenizeHere } from "./tokenizePool.ts";

/** Names the rules of cutting, splitting, shuffling and packing in the digest; changes when one of them does. */
const packingRule = "cambium-packing-1";
/** Text in a batch for a tokenizer thread, UTF-16 units, unless one piece is longer. */
const batchSize = 256 * 1024;
/** Documents in a batch, at most. */
const batchDocuments = 4096;
/** Tokenizer threads at most: each holds a vocabulary of its own. */
const maxThreads = 4;
/** Inline texts, UTF-16 units together. */
const maxInlineSize = 256 * 1024 * 1024;
/** Share of the work that finding the documents is taken to be, for the progress. */
const scanShare = 0.1;

export interface DatasetProgress {
  /** 0 to 1. */
  readonly fraction: number;
  /** Tokens written so far. */
  readonly tokens: number;
  /** What is being done now, for a person. */
  readonly message: string;
}

export interface BuildDatasetOptions {
  readonly source: DatasetBuildSource;
  readonly tokenizer: TokenizerRef;
  /** Where the tokenizer's files lie; empty for bytes. */
  readonly tokenizerBlobs: Readonly<Record<string, BlobLocation>>;
  /** 0 for no held-out part, else below 1. */
  readonly validationFraction: number;
  /** An integer. */
  readonly seed: number;
  readonly blobDir: string;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: DatasetProgress) => void;
  /** Tokenizer threads; by default one for each core, at most 4. */
  readonly threads?: number;
}

export interface BuiltDataset {
  readonly manifest: DatasetManifest;
  readonly blobs: readonly NewBlob[];
}

/** What both passes share. */
interface Build {
  readonly options: BuildDatasetOptions;
  readonly corpus: Corpus;
  readonly index: DocumentIndex;
  readonly totalBytes: number;
  readonly tokenizer: Tokenizer;
  readonly eosTokenId: number;
  readonly dtype: TokenDtype;
}

function checkAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new CodedError("cancelled", "the dataset build was cancelled");
}

function readInline(source: DatasetBuildSource): string[] {
  if (source.type !== "text") return [];
  const texts = (typeof source.text === "string" ? [source.text] : source.text).map((text) => text.toWellFormed());
  const size = texts.reduce((total, text) => total + text.length, 0);
  if (size > maxInlineSize) {
    throw new CodedError("dataset_invalid", `${size} characters of inline text, at most ${maxInlineSize}`);
  }
  return texts;
}

async function indexDocuments(
  corpus: Corpus,
  options: BuildDatasetOptions,
  totalBytes: number,
): Promise<DocumentIndex> {
  const index = new DocumentIndex();
  let done = 0;
  const onBytes = (bytes: number): void => {
    checkAborted(options.signal);
    done += bytes;
    const fraction = (scanShare * done) / Math.max(1, totalBytes);
    options.onProgress({ fraction, tokens: 0, message: `finding documents: ${index.length}` });
  };
  for (const [fileIndex, file] of corpus.files.entries()) await scanFile(file, fileIndex, index, onBytes);
  corpus.texts.forEach((text, file) => {
    if (text !== "") index.add({ file, start: 0, end: text.length }, hashText(text));
  });
  return index;
}

/** Gathers texts until there is enough for a thread to work on. */
class BatchBuilder {
  readonly #eosTokenId: number;
  #texts: string[] = [];
  #endsDocument: boolean[] = [];
  #size = 0;

  constructor(eosTokenId: number) {
    this.#eosTokenId = eosTokenId;
  }

  get isFull(): boolean {
    return this.#size >= batchSize || this.#texts.length >= batchDocuments;
  }

  get isEmpty(): boolean {
    return this.#texts.length === 0;
  }

  add(text: string, endsDocument: boolean): void {
    this.#texts.push(text);
    this.#endsDocument.push(endsDocument);
    this.#size += text.length;
  }

  take(): TokenizeBatch {
    const batch = { texts: this.#texts, endsDocument: this.#endsDocument, eosTokenId: this.#eosTokenId };
    this.#texts = [];
    this.#endsDocument = [];
    this.#size = 0;
    return batch;
  }
}

/** A batch, where its tokens go, and how much of the corpus has been read when it is full. */
interface SideBatch extends TokenizeBatch {
  readonly writer: ShardWriter;
  readonly readBytes: number;
}

/** The documents of both sides as batches, none of which is of both; where one ends depends on the texts alone. */
async function* makeBatches(build: Build, sides: readonly [SplitPart, ShardWriter][]): AsyncGenerator<SideBatch> {
  const reader = new DocumentReader(build.corpus, build.options.validationFraction);
  const builder = new BatchBuilder(build.eosTokenId);
  let readBytes = 0;
  try {
    for (const [side, writer] of sides) {
      for (const document of side.documents) {
        const entry = build.index.entry(document);
        for await (const text of reader.read(entry, side.part)) {
          checkAborted(build.options.signal);
          builder.add(text, false);
          if (builder.isFull) yield { ...builder.take(), writer, readBytes };
        }
        // The document's last piece may be in a batch that is gone already: an empty text carries the end.
        builder.add("", true);
        readBytes += entry.end - entry.start;
        if (builder.isFull) yield { ...builder.take(), writer, readBytes };
      }
      if (!builder.isEmpty) yield { ...builder.take(), writer, readBytes };
    }
  } finally {
    await reader.close();
  }
}

function tokenize(build: Build, batches: AsyncIterable<SideBatch>): AsyncIterable<TokenizedBatch<SideBatch>> {
  if (build.totalBytes <= batchSize) return tokenizeHere(batches, build.tokenizer);
  const { tokenizer: ref, tokenizerBlobs: blobs, signal } = build.options;
  const threads = Math.max(1, build.options.threads ?? Math.min(maxThreads, availableParallelism()));
  return tokenizeBatches(batches, { ref, blobs, threads, signal });
}

async function packBoth(build: Build, split: Split): Promise<{ train: ShardWriter; validation: ShardWriter }> {
  const { blobDir, onProgress } = build.options;
  const train = new ShardWriter(blobDir, build.dtype);
  const validation = new ShardWriter(blobDir, build.dtype);
  const batches = makeBatches(build, [[split.validation, validation], [split.train, train]]);
  try {
    for await (const { batch, ids } of tokenize(build, batches)) {
      await batch.writer.write(ids);
      const share = Math.min(1, batch.readBytes / Math.max(1, build.totalBytes));
      const tokens = train.numTokens + validation.numTokens;
      onProgress({ fraction: scanShare + (1 - scanShare) * share, tokens, message: `tokenizing: ${tokens} tokens` });
    }
    await validation.finish();
    await train.finish();
  } finally {
    await validation.abort();
    await train.abort();
  }
  return { train, validation };
}

function describeTokenizer(ref: TokenizerRef): unknown {
  if (ref.kind === "bytes") return "bytes";
  return [...ref.files].map((file) => [file.name, file.blob]).sort((a, b) => ((a[0] ?? "") < (b[0] ?? "") ? -1 : 1));
}

function makeDigest(manifest: Omit<DatasetManifest, "digest">, options: BuildDatasetOptions): string {
  const identity = [
    packingRule,
    describeTokenizer(manifest.tokenizer),
    { validation_fraction: options.validationFraction, seed: options.seed },
    manifest.tokenDtype,
    manifest.train.map((shard) => shard.blob),
    manifest.validation.map((shard) => shard.blob),
  ];
  return createHash("sha256").update(JSON.stringify(identity)).digest("hex");
}

function checkOptions(options: BuildDatasetOptions): void {
  const { validationFraction, seed } = options;
  if (!(validationFraction >= 0 && validationFraction < 1)) {
    throw new CodedError("invalid_request", `validation_fraction is ${validationFraction}, 0 to below 1 is wanted`);
  }
  if (!Number.isSafeInteger(seed)) throw new CodedError("invalid_request", `seed is ${seed}, an integer is wanted`);
}

/**
 * Builds a dataset.
 * @returns the manifest and the blobs written, which nothing refers to yet
 * @throws dataset_invalid, tokenizer_invalid, source_changed, storage_full, cancelled; for a directory also
 *   forbidden, invalid_request, checkpoint_missing_file
 */
export async function buildDataset(options: BuildDatasetOptions): Promise<BuiltDataset> {
  checkOptions(options);
  const tokenizer = await loadTokenizerRef(options.tokenizer, options.tokenizerBlobs);
  if (tokenizer.eosTokenId === null) {
    throw new CodedError("tokenizer_invalid", "the tokenizer names no eos_token, which ends every document");
  }
  const corpus: Corpus = { files: await listCorpusFiles(options.source), texts: readInline(options.source) };
  const fileBytes = corpus.files.reduce((total, file) => total + file.sizeBytes, 0);
  const totalBytes = corpus.texts.reduce((total, text) => total + text.length, fileBytes);
  const index = await indexDocuments(corpus, options, totalBytes);
  const split = splitDocuments(index, options.validationFraction, options.seed);
  const dtype = tokenDtypeFor(tokenizer.vocabSize);
  const build = { options, corpus, index, totalBytes, tokenizer, eosTokenId: tokenizer.eosTokenId, dtype };
  const { train, validation } = await packBoth(build, split);
  const content: Omit<DatasetManifest, "digest"> = {
    tokenizer: options.tokenizer,
    vocabSize: tokenizer.vocabSize,
    eosTokenId: tokenizer.eosTokenId,
    tokenDtype: dtype,
    train: train.shards,
    validation: validation.shards,
    numTokens: train.numTokens,
    numValidationTokens: validation.numTokens,
    numDocuments: split.train.documents.length,
    numValidationDocuments: split.validation.documents.length,
  };
  const manifest = { ...content, digest: makeDigest(content, options) };
  return { manifest, blobs: [...validation.blobs, ...train.blobs] };
}
