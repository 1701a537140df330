/**
 * A checkpoint as a served model on the active tfjs backend: the weights, a decoder over the one Llama of
 * `model/llama.ts`, and generation and scoring on top. The backend calls it after choosing kernels; the process
 * that holds the model closes it.
 */
import * as tf from "@tensorflow/tfjs";
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { invariant } from "../../ops/errors.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { KvCache } from "../model/kvCache.ts";
import { logits, stepStates } from "../model/llama.ts";
import type { Weights } from "../model/llama.ts";
import { disposeWeights, loadWeights } from "../model/weights.ts";
import { batching } from "./batcher.ts";
import type { StepStats } from "./batcher.ts";
import type { BatchDecoder, Context, StepPart } from "./decoder.ts";
import { generate } from "./generate.ts";
import { rowsOf } from "./logitRow.ts";
import { SharedPrompts } from "./prompts.ts";
import { score } from "./score.ts";
import type { ServedModel } from "./servedModel.ts";
import { takingTurns } from "./stepTurns.ts";
import { openTeamModel, weightsOf } from "./teamModel.ts";
import type { TeamModel } from "./teamModel.ts";

/** Steps remembered for whoever asks. */
const maxStepsKept = 1000;

export interface CacheOptions {
  /**
   * Positions that all its caches may hold together. Generation keeps what it has computed within them, for prompts
   * that begin alike; 0, unless given, keeps nothing.
   */
  readonly cachePositions?: number;
  /** What keys and values are kept as by kernels that have a choice, F32 unless given; the others keep float32. */
  readonly cacheDtype?: CacheDtype;
}

export interface ServedModelOptions extends CacheOptions {
  /** Threads that may compute it, where the kernels know how; 1 unless given. */
  readonly threads?: number;
}

/**
 * @throws checkpoint_missing_file, checkpoint_corrupt, source_changed
 */
export async function loadServedModel(
  checkpoint: ResolvedCheckpoint,
  kernels: Kernels,
  { threads = 1, cachePositions = 0, cacheDtype = "F32" }: ServedModelOptions = {},
): Promise<ServedModel> {
  const { config } = checkpoint.manifest;
  const model = kernels.inference
    ? await openTeamModel(config, weightsOf(checkpoint), kernels.inference, threads, { cacheDtype })
    : await openTfjsModel(checkpoint, kernels);
  const batchDecoder = takingTurns(model.decoder);
  let made: StepStats[] = [];
  const observe = (step: StepStats): void => {
    if (made.length < maxStepsKept) made.push(step);
  };
  const decoder = batching(batchDecoder, { observe, relieve: (): boolean => prompts.relieve() });
  const sharesPages = kernels.inference !== undefined;
  const prompts = new SharedPrompts(decoder, { positions: cachePositions, sharesPages });
  let open = true;
  return {
    maxLength: batchDecoder.maxLength,
    vocabSize: batchDecoder.vocabSize,
    memoryBytes: model.memoryBytes,
    sharesPages,
    generate: (request, signal) => generate(prompts, request, signal),
    score: (requests, signal) => score(batchDecoder, requests, signal),
    takeSteps() {
      const taken = made;
      made = [];
      return taken;
    },
    close() {
      if (!open) return;
      prompts.close();
      model.close();
      open = false;
    },
  };
}

/** The model as tensors of the active tfjs backend, in float32. */
async function openTfjsModel(checkpoint: ResolvedCheckpoint, kernels: Kernels): Promise<TeamModel> {
  const weights = await loadWeights(checkpoint);
  return {
    decoder: llamaDecoder(checkpoint.manifest.config, weights, kernels),
    memoryBytes: [...weights.values()].reduce((sum, tensor) => sum + 4 * tensor.size, 0),
    close: () => disposeWeights(weights),
  };
}

/** @returns a decoder over weights that it does not own. */
export function llamaDecoder(config: LlamaConfig, weights: Weights, kernels: Kernels): BatchDecoder {
  const caches = new WeakMap<Context, KvCache>();
  const contextOf = (cache: KvCache): Context => {
    const context: Context = {
      get length() {
        return cache.length;
      },
      get room() {
        return cache.room;
      },
      truncate: (length) => cache.truncate(length),
      fork: (length, capacity) => contextOf(cache.fork(length, capacity)),
      close: () => cache.dispose(),
    };
    caches.set(context, cache);
    return context;
  };
  return {
    maxLength: config.maxPositionEmbeddings,
    vocabSize: config.vocabSize,
    start: (capacity) => contextOf(new KvCache(config.numHiddenLayers, capacity)),
    async step(parts) {
      const ids = Int32Array.from(parts.flatMap((part) => part.ids));
      const sequences = parts.map((part) => ({ cache: cacheOf(caches, part), rows: part.ids.length }));
      const wanted = wantedRows(parts);
      if (wanted.length === 0) {
        stepStates(kernels, config, weights, ids, sequences).dispose();
        return [];
      }
      const result = tf.tidy(() => {
        const x_TD = stepStates(kernels, config, weights, ids, sequences);
        // Only the rows asked for meet the head: it is the widest product of the model.
        const isWhole = wanted.length === ids.length;
        const x_RD = isWhole ? x_TD : kernels.embedding(tf.tensor1d(wanted, "int32"), x_TD);
        return logits(kernels, config, weights, x_RD);
      });
      const values = (await result.data()) as Float32Array;
      result.dispose();
      return rowsOf(values, config.vocabSize);
    },
  };
}

function cacheOf(caches: WeakMap<Context, KvCache>, { context }: StepPart): KvCache {
  const cache = caches.get(context);
  invariant(cache, "a step names a context that this decoder did not start");
  return cache;
}

/** @returns the rows of a step whose logits are wanted: the last of each part. */
function wantedRows(parts: readonly StepPart[]): number[] {
  let end = 0;
  return parts.flatMap(({ ids, rows }) => {
    end += ids.length;
    return Array.from({ length: rows }, (_, i) => end - rows + i);
  });
}
