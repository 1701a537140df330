/**
 * From what a client calls a model (an id, a name, or nothing where there is only one) to the checkpoint and its
 * tokenizer. Requests to the engine are made elsewhere.
 *
 * Each request asks the database which checkpoint is meant, so that one that was deleted or renamed, by whatever
 * process, is so at once. Where the files of a checkpoint lie is asked now and then.
 */
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import { tokenizerSource } from "../../engine/serving/tokenizerCache.ts";
import type { TokenizerSource } from "../../engine/serving/tokenizerCache.ts";
import type { CheckpointRow, Store } from "../../engine/store/types.ts";
import type { Schemas } from "../handlers.ts";

export interface InferenceModel {
  readonly row: CheckpointRow;
  readonly checkpoint: ResolvedCheckpoint;
  /** Null for a checkpoint that speaks token ids only. */
  readonly tokenizer: TokenizerSource | null;
}

/**
 * @param reference null where the client named none
 * @throws not_found, invalid_request when none is named and there are several
 */
export type FindModel = (reference: string | null) => Promise<InferenceModel>;

/** How long files are believed to lie where they lay, ms: they move when their directory is registered anew. */
const trustMs = 5_000;
/** Checkpoints remembered. */
const maxResolved = 256;

interface Resolved extends Omit<InferenceModel, "row"> {
  readonly untilMs: number;
}

/**
 * @param now milliseconds of a clock
 * @returns a function that finds what a client calls a model, and remembers for `trustMs` where its files lie
 */
export function createFindModel(store: Store, now: () => number = Date.now): FindModel {
  /** By id: what it tells of a checkpoint but its files' places never changes. */
  const resolved = new Map<string, Resolved>();
  return async (reference) => {
    const row = reference === null ? await onlyCheckpoint(store) : await store.checkpoints.get(reference);
    const known = resolved.get(row.id);
    if (known && known.untilMs > now()) return { row, checkpoint: known.checkpoint, tokenizer: known.tokenizer };
    const checkpoint = await store.checkpoints.resolve(row);
    const found = { checkpoint, tokenizer: tokenizerSource(checkpoint) };
    if (resolved.size >= maxResolved) resolved.clear();
    resolved.set(row.id, { ...found, untilMs: now() + trustMs });
    return { row, ...found };
  };
}

async function onlyCheckpoint(store: Store): Promise<CheckpointRow> {
  const { rows } = await store.checkpoints.list({ limit: 2 });
  const [row] = rows;
  if (row === undefined) throw new CodedError("not_found", "there is no checkpoint yet: register one first");
  if (rows.length === 1) return row;
  const detail = "is missing: it may be left out only where the service has a single checkpoint";
  throw new CodedError("invalid_request", `model ${detail}`, { fields: [{ pointer: "/model", detail }] });
}

/** @throws unprocessable when the checkpoint has no tokenizer */
export function requireTokenizer({ row, tokenizer }: InferenceModel): TokenizerSource {
  if (tokenizer !== null) return tokenizer;
  throw new CodedError("unprocessable", `${row.id} has no tokenizer: it takes and gives token ids only`);
}

export function presentModel(row: CheckpointRow): Schemas["Model"] {
  return {
    id: row.id,
    object: "model",
    created: Math.floor(row.createdAt.getTime() / 1000),
    owned_by: "cambium",
    name: row.name,
    max_model_len: row.manifest.config.maxPositionEmbeddings,
  };
}
