/**
 * Batches for training and for validation out of a packed dataset. The training tokens are one endless stream:
 * the tokens of the dataset in order, again and again. Sequence after sequence covers tokens [p, p + T] of it,
 * inputs [p, p + T) and targets shifted by one, and p advances by T; so `position` counts tokens exactly, and
 * skipping what a base model has seen works whatever batch and sequence length it was trained with. The whole
 * state is the position: a loader made at a position gives the batches that any other gives from there on, bit
 * for bit. There is no shuffling here; documents were shuffled when the dataset was built.
 */
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedDataset } from "../../ops/manifest.ts";
import { PackedTokens } from "./packedTokens.ts";

export interface Batch {
  /** Input ids, row-major [sequences, sequenceLength]. */
  readonly ids: Int32Array<ArrayBuffer>;
  /** The token that follows each input, same shape. */
  readonly targets: Int32Array<ArrayBuffer>;
  readonly sequences: number;
  readonly sequenceLength: number;
  /** Tokens of the stream consumed up to the end of this batch. */
  readonly position: number;
}

export interface BatchLoader {
  /** Tokens consumed so far, epochs included. */
  readonly position: number;
  /** Training tokens in the dataset: one epoch. */
  readonly epochTokens: number;
  /** @returns the next `sequences` sequences. @throws dataset_invalid when a shard is damaged */
  next(sequences: number): Batch;
  close(): void;
}

export interface BatchLoaderOptions {
  /** Tokens in a sequence, at least 1. */
  readonly sequenceLength: number;
  /** First token of the stream to use; `skip_tokens` at the start, the saved position at a resume. */
  readonly position: number;
}

/** Copies `row.length` tokens of the endless stream from `position` on. */
function readWrapped(tokens: PackedTokens, position: number, row: Int32Array): void {
  let done = 0;
  while (done < row.length) {
    const start = (position + done) % tokens.length;
    const count = Math.min(row.length - done, tokens.length - start);
    tokens.read(start, row.subarray(done, done + count));
    done += count;
  }
}

/** Fills row `sequence` of a batch from the T + 1 tokens that it covers. */
function setRow(batch: Pick<Batch, "ids" | "targets">, sequence: number, row: Int32Array): void {
  const length = row.length - 1;
  batch.ids.set(row.subarray(0, length), sequence * length);
  batch.targets.set(row.subarray(1), sequence * length);
}

/**
 * Opens the training stream of a dataset at a position.
 * @throws dataset_invalid when the dataset has not one whole sequence
 */
export function createBatchLoader(dataset: ResolvedDataset, options: BatchLoaderOptions): BatchLoader {
  const { sequenceLength } = options;
  if (!Number.isSafeInteger(sequenceLength) || sequenceLength < 1) {
    throw new CodedError("invalid_request", `sequence_length is ${sequenceLength}, at least 1 is wanted`);
  }
  if (!Number.isSafeInteger(options.position) || options.position < 0) {
    throw new CodedError("invalid_request", `the position is ${options.position}, an integer from 0 on is wanted`);
  }
  const tokens = new PackedTokens(dataset, "train");
  if (tokens.length < sequenceLength + 1) {
    const wanted = `a sequence of ${sequenceLength} needs ${sequenceLength + 1}`;
    throw new CodedError("dataset_invalid", `dataset ${dataset.id} has ${tokens.length} training tokens, ${wanted}`);
  }
  let position = options.position;
  const row = new Int32Array(sequenceLength + 1);
  return {
    get position() {
      return position;
    },
    epochTokens: tokens.length,
    next(sequences) {
      const size = sequences * sequenceLength;
      const batch = { ids: new Int32Array(size), targets: new Int32Array(size) };
      for (let sequence = 0; sequence < sequences; sequence++) {
        readWrapped(tokens, position, row);
        setRow(batch, sequence, row);
        position += sequenceLength;
      }
      return { ...batch, sequences, sequenceLength, position };
    },
    close: () => tokens.close(),
  };
}

export interface ValidationOptions {
  readonly sequenceLength: number;
  /** Sequences in a batch; the last batch may have fewer. */
  readonly sequences: number;
  /** Tokens scored, at most; at least one sequence is given. */
  readonly maxTokens: number;
}

/**
 * The fixed windows of the held-out tokens, always the same and in the same order, without overlap of targets.
 * A held-out part shorter than one sequence is one shorter sequence; one of fewer than two tokens gives none.
 * @throws dataset_invalid when a shard is damaged
 */
export function* validationBatches(dataset: ResolvedDataset, options: ValidationOptions): Generator<Batch> {
  const tokens = new PackedTokens(dataset, "validation");
  const sequenceLength = Math.min(options.sequenceLength, tokens.length - 1);
  if (sequenceLength < 1) return;
  const allowed = Math.max(1, Math.floor(options.maxTokens / sequenceLength));
  const total = Math.min(allowed, Math.floor((tokens.length - 1) / sequenceLength));
  const row = new Int32Array(sequenceLength + 1);
  try {
    for (let first = 0; first < total; first += options.sequences) {
      const sequences = Math.min(options.sequences, total - first);
      const size = sequences * sequenceLength;
      const batch = { ids: new Int32Array(size), targets: new Int32Array(size) };
      for (let sequence = 0; sequence < sequences; sequence++) {
        tokens.read((first + sequence) * sequenceLength, row);
        setRow(batch, sequence, row);
      }
      yield { ...batch, sequences, sequenceLength, position: (first + sequences) * sequenceLength };
    }
  } finally {
    tokens.close();
  }
}
