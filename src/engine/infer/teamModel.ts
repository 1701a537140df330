/**
 * A checkpoint on memory that threads share, with the threads: its weights in panels, bfloat16 ones in 16 bits, and a
 * decoder whose contexts are pages of keys and values.
 */
import { once } from "node:events";
import { MessageChannel, Worker } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { CodedError, fromErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import { expectedTensors } from "../../ops/architectures/llama.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import { maskOfNames, maskedValues } from "../../ops/growth/index.ts";
import { TensorReader } from "../checkpoint/tensorReader.ts";
import type { InferenceFunctions } from "../kernels/inference/module.ts";
import { chooseBuild } from "../kernels/inference/build.ts";
import { PanelPacker, PanelProducts, panelScratchFloats } from "../kernels/inference/panels.ts";
import type { PanelMatrix } from "../kernels/inference/panels.ts";
import { SharedHeap } from "../kernels/inference/sharedHeap.ts";
import { TeamMember, controlWords } from "../kernels/inference/team.ts";
import type { InferenceKernels } from "../kernels/kernels.ts";
import type { TeamLlama, TeamThread } from "../model/teamLlama.ts";
import { fewRows, paneled } from "../model/teamLlama.ts";
import type { BatchDecoder } from "./decoder.ts";
import { teamDecoder } from "./teamDecoder.ts";
import { toldBy } from "./teamErrors.ts";
import { isWorthSharing } from "./stepWork.ts";
import { mostStepRows, planWords } from "./teamPlan.ts";
import type { TeamThreadData } from "./teamThread.ts";

/** A helper that loads no kernels for so long is given up. */
const startTimeoutMs = 60_000;

export interface TeamModel {
  readonly decoder: BatchDecoder;
  /** Of the weights. */
  readonly memoryBytes: number;
  close(): void;
}

export interface TeamModelOptions {
  /** Of keys and values; F32 unless given. */
  readonly cacheDtype?: CacheDtype;
  /** Whether the threads share a step; where it is faster unless given. */
  readonly isShared?: typeof isWorthSharing;
}

/** Tensors by name: float32 values, or the bits of bfloat16. */
export type WeightSource = AsyncIterable<readonly [name: string, values: Float32Array | Uint16Array]>;

/** @returns the tensors of a checkpoint, those that a growth masks with the mask. */
export async function* weightsOf(checkpoint: ResolvedCheckpoint): WeightSource {
  const maskOf = maskOfNames(checkpoint.manifest);
  const reader = new TensorReader(checkpoint.blobs);
  try {
    for (const info of checkpoint.manifest.tensors) yield [info.name, await valuesOf(reader, info, maskOf(info.name))];
  } finally {
    await reader.close();
  }
}

async function valuesOf(
  reader: TensorReader,
  info: TensorRef,
  mask: ReturnType<ReturnType<typeof maskOfNames>>,
): Promise<Float32Array | Uint16Array> {
  if (mask !== null) return maskedValues(await reader.read(info), info.shape, mask);
  if (info.dtype !== "BF16" || info.shape.length !== 2) return reader.read(info);
  const { buffer, byteOffset, byteLength } = await reader.readBytes(info);
  return new Uint16Array(
    byteOffset % 2 === 0 ? buffer : buffer.slice(byteOffset),
    byteOffset % 2 === 0 ? byteOffset : 0,
    byteLength / 2,
  );
}

/**
 * @param threads this one included
 * @throws checkpoint_corrupt, source_changed, out_of_memory, backend_unavailable
 */
export async function openTeamModel(
  config: LlamaConfig,
  weights: WeightSource,
  kernels: InferenceKernels,
  threads: number,
  { cacheDtype = "F32", isShared = isWorthSharing }: TeamModelOptions = {},
): Promise<TeamModel> {
  const heap = new SharedHeap();
  const { build, c, blas } = await chooseBuild(kernels, heap);
  const control = heap.take(controlWords * 4);
  const plan = heap.take(planWords * 4);
  const words = new Int32Array(heap.memory.buffer, control, controlWords).fill(0);
  const before = heap.usedBytes;
  const model = { ...(await placeWeights(config, weights, new PanelPacker(heap, c))), cacheDtype };
  const memoryBytes = heap.usedBytes - before;
  const scratch = (): Scratch => takeScratch(heap, c, model, blas !== null);
  const shared = { memory: heap.memory, build, threads, model, control, plan };
  const helpers: Worker[] = [];
  const errors: MessagePort[] = [];
  const close = (): void => helpers.forEach((helper) => void helper.terminate());
  try {
    // One after the other: compiling kernels turns flags of the whole process.
    for (let thread = 1; thread < threads; thread++) {
      const { port1, port2 } = new MessageChannel();
      errors.push(port1);
      helpers.push(await startThread({ ...shared, thread, ...scratch(), errors: port2 }));
    }
  } catch (error) {
    close();
    throw error;
  }
  const own = scratch();
  const products = new PanelProducts(c, blas, own.productScratch);
  const thread: TeamThread = {
    ...{ member: new TeamMember(words, threads, 0, { told: toldBy(errors) }), threads, c, products },
    ...{ scratch: own.attentionScratch, normed: own.normed },
  };
  return { decoder: teamDecoder(config, heap, thread, model, plan, isShared), memoryBytes, close };
}

type Scratch = Pick<TeamThreadData, "productScratch" | "attentionScratch" | "normed">;

function takeScratch(heap: SharedHeap, c: InferenceFunctions, model: TeamLlama, blas: boolean): Scratch {
  const { hiddenSize, intermediateSize, numHeads, numKeyValueHeads, headDim } = model;
  const mostInputs = Math.max(hiddenSize, intermediateSize, numHeads * headDim);
  return {
    productScratch: heap.take(panelScratchFloats(c, mostInputs, blas) * 4),
    normed: heap.take(fewRows * paneled(hiddenSize) * 4),
    attentionScratch: heap.take(
      c.paged_attention_scratch_floats(mostStepRows, numKeyValueHeads, numHeads / numKeyValueHeads, headDim) * 4,
    ),
  };
}

type PlacedWeights = Omit<TeamLlama, "cacheDtype">;

async function placeWeights(config: LlamaConfig, weights: WeightSource, packer: PanelPacker): Promise<PlacedWeights> {
  const vectors = new Map<string, number>();
  const matrices = new Map<string, Omit<PanelMatrix, "bias">>();
  const shapes = matrixShapes(config);
  for await (const [name, values] of weights) {
    const shape = shapes.get(name);
    if (shape) matrices.set(name, packer.matrix(values, ...shape));
    else vectors.set(name, packer.vector(values as Float32Array));
  }
  const named = <T>(map: ReadonlyMap<string, T>, name: string): T => {
    const found = map.get(name);
    if (found === undefined) throw new Error(`invariant: the weights hold no ${name}; the manifest was not checked`);
    return found;
  };
  const vector = (name: string): number => named(vectors, name);
  const matrix = (name: string, hasBias = false): PanelMatrix => ({
    ...named(matrices, `${name}.weight`),
    bias: hasBias ? vector(`${name}.bias`) : 0,
  });
  const embedding = matrix("model.embed_tokens");
  const { attentionBias, mlpBias } = config;
  return {
    ...{ hiddenSize: config.hiddenSize, intermediateSize: config.intermediateSize, eps: config.rmsNormEps },
    ...{ numHeads: config.numAttentionHeads, numKeyValueHeads: config.numKeyValueHeads, headDim: config.headDim },
    embedding,
    layers: Array.from({ length: config.numHiddenLayers }, (_, layer) => {
      const prefix = `model.layers.${layer}.`;
      const attention = (name: string): PanelMatrix => matrix(`${prefix}self_attn.${name}_proj`, attentionBias);
      const mlp = (name: string): PanelMatrix => matrix(`${prefix}mlp.${name}_proj`, mlpBias);
      return {
        inputNorm: vector(`${prefix}input_layernorm.weight`),
        postNorm: vector(`${prefix}post_attention_layernorm.weight`),
        ...{ q: attention("q"), k: attention("k"), v: attention("v"), o: attention("o") },
        ...{ gate: mlp("gate"), up: mlp("up"), down: mlp("down") },
      };
    }),
    norm: vector("model.norm.weight"),
    head: config.tieWordEmbeddings ? embedding : matrix("lm_head"),
  };
}

/** @returns [outputs, inputs] of every matrix by its name. */
function matrixShapes(config: LlamaConfig): Map<string, [number, number]> {
  return new Map(
    expectedTensors(config).flatMap(({ name, shape }) =>
      shape.length === 2 ? [[name, [shape[0]!, shape[1]!]] as const] : [],
    ),
  );
}

async function startThread(data: TeamThreadData): Promise<Worker> {
  const worker = new Worker(new URL("./teamThread.ts", import.meta.url), {
    workerData: data,
    transferList: [data.errors],
  });
  const waiting = new AbortController();
  const timer = setTimeout(() => waiting.abort(), startTimeoutMs);
  try {
    const [message] = (await once(worker, "message", { signal: waiting.signal })) as [
      { type: "ready" } | { type: "failed"; error: ErrorRecord },
    ];
    if (message.type === "failed") throw fromErrorRecord(message.error);
  } catch (cause) {
    await worker.terminate();
    if (cause instanceof CodedError) throw cause;
    throw new CodedError("internal", "a helper thread of the model did not start", { cause });
  } finally {
    clearTimeout(timer);
  }
  // It waits for steps in a loop and never turns to its events; the process may end without it.
  worker.unref();
  return worker;
}
